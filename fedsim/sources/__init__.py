"""Where the gradient of a local step comes from: the loss's own, or one that was taken elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.sources.borep import BoRep
from fedsim.sources.sar import Sar
from fedsim.sources.sharpness import Sharpness
from fedsim.sources.source import PLAIN, Backpropagation, Retaking, Source

SOURCES: dict[str, Callable[..., Source]] = {
    "backpropagation": Backpropagation,
    "sam": Sharpness,
    "sar": Sar,
    "borep": BoRep,
}

__all__ = ["PLAIN", "SOURCES", "Backpropagation", "BoRep", "Retaking", "Sar", "Source"]
