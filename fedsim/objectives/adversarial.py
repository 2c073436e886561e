"""Adversarial training: the loss where it is worst nearby."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fedsim.losses import Loss
from fedsim.objectives.objective import Plain, Step
from fedsim.objectives.pgd import PGD
from fedsim.objectives.term import Term


@dataclass(frozen=True, kw_only=True)
class Adversarial(PGD, Plain):
    """Every local step learns from examples that PGD has moved: federated adversarial learning.

    Li, Song and Yang, Federated Adversarial Learning: A Framework with Convergence Analysis (ICML 2023): an inner loop
    makes adversarial examples, an outer loop local updates. They are made with the client's present model at every
    `step`, or with the server's that it has started from (`round`); which of both the paper means is not known.
    """

    regenerate: Literal["step", "round"] = "step"

    @property
    def effort(self) -> float:
        """See `Objective`: the attack, and a training."""
        return 1.0 + self.price

    @property
    def loss(self) -> Loss | None:
        """Of the points; None: the one for such labels."""
        return None

    def terms(self, step: Step) -> Sequence[Term]:
        """See `Objective`."""
        return (Term("loss", self.examples(step), step.y, self.loss, step.offset),)

    def examples(self, step: Step) -> Tensor:
        """The points to learn from, (K, B, *shape); or (K, 2 B, *shape), where the loss is of pairs."""
        return self.attack(step.source, self.model(step), step.x, step.y, step.draws("adversarial"))

    def model(self, step: Step) -> Mapping[str, Tensor]:
        """Whom they are to mislead."""
        return step.params if self.regenerate == "step" else step.start
