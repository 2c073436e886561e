"""How far a local step goes of what the optimizer proposes: schedules, and controls that look at the proposal."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.steps.rule import Proposal, Rule
from fedsim.steps.schedules import Constant, Cosine, Linear, Trapezoid

SCHEDULES: dict[str, Callable[..., Rule]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "trapezoid": Trapezoid,
}
CONTROLS: dict[str, Callable[..., Rule]] = {}

__all__ = ["CONTROLS", "SCHEDULES", "Proposal", "Rule"]
