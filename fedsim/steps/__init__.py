"""How far a local step goes of what the optimizer proposes: schedules, and controls that look at the proposal."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.steps.clip import Clip
from fedsim.steps.dal import Dal
from fedsim.steps.ghosts import Ghosts
from fedsim.steps.refined import Refined
from fedsim.steps.rule import Proposal, Rule
from fedsim.steps.schedules import Constant, Cosine, Jump, Linear, Trapezoid

SCHEDULES: dict[str, Callable[..., Rule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "trapezoid": Trapezoid,
    "refined": Refined,
    "jump": Jump,
}
CONTROLS: dict[str, Callable[..., Rule]] = {"ghosts": Ghosts, "dal": Dal, "clip": Clip}

__all__ = ["CONTROLS", "SCHEDULES", "Proposal", "Rule"]
