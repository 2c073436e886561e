"""What a local step minimises."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.objectives.adversarial import Adversarial
from fedsim.objectives.pgd import PGD

OBJECTIVES: dict[str, Callable[..., Adversarial]] = {"adversarial": Adversarial}

__all__ = ["OBJECTIVES", "PGD", "Adversarial"]
