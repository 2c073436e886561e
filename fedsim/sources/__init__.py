"""Where the gradient of a local step comes from: the loss's own, or one that was taken elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.sources.combined import Combined
from fedsim.sources.eggroll import Eggroll, Replayed
from fedsim.sources.game import Game
from fedsim.sources.sharpness import Sharpness
from fedsim.sources.source import PLAIN, Backpropagation, Source

SOURCES: dict[str, Callable[..., Source]] = {
    "backpropagation": Backpropagation,
    "sam": Sharpness,
    "eggroll": Eggroll,
    "combined": Combined,
    "game": Game,
}

__all__ = ["PLAIN", "SOURCES", "Backpropagation", "Combined", "Eggroll", "Game", "Replayed", "Source"]
