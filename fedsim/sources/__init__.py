"""Where the gradient of a local step comes from: the loss's own, or one that was taken elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.sources.borep import BoRep
from fedsim.sources.combined import Combined
from fedsim.sources.eggroll import Eggroll, Replayed
from fedsim.sources.game import Game
from fedsim.sources.sar import Sar
from fedsim.sources.sharpness import Sharpness
from fedsim.sources.source import PLAIN, Backpropagation, Retaking, Source

SOURCES: dict[str, Callable[..., Source]] = {
    "backpropagation": Backpropagation,
    "sam": Sharpness,
    "eggroll": Eggroll,
    "combined": Combined,
    "game": Game,
    "sar": Sar,
    "borep": BoRep,
}

__all__ = ["PLAIN", "SOURCES", "Backpropagation", "BoRep", "Combined", "Eggroll", "Game", "Replayed", "Retaking", "Sar",
           "Source"]  # fmt: skip
