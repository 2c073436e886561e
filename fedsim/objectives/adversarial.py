"""Adversarial training: the loss where it is worst nearby."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fedsim.gradients import Gradients
from fedsim.objectives.pgd import PGD
from fedsim.wire.codec import generator
from fedsim.work import LocalTask


@dataclass(frozen=True, kw_only=True)
class Adversarial(PGD):
    """Every local step learns from examples that PGD has moved: federated adversarial learning.

    Li, Song and Yang, Federated Adversarial Learning: A Framework with Convergence Analysis (ICML 2023): an inner loop
    makes adversarial examples, an outer loop local updates. They are made with the client's present model at every
    `step`, or with the server's that it has started from (`round`); which of both the paper means is not known.
    """

    regenerate: Literal["step", "round"] = "step"

    def examples(
        self, source: Gradients, models: tuple[Mapping[str, Tensor], Mapping[str, Tensor]], x: Tensor, y: Tensor,
        tasks: Sequence[LocalTask], step: int, seed: int,
    ) -> Tensor:  # fmt: skip
        """What the first K clients learn from, in place of x (K, B, *shape); models as now, and at the start."""
        draws = [generator(seed, "adversarial", task.client, task.ordinal, step) for task in tasks[: len(x)]]
        return self.attack(source, models[self.regenerate == "round"], x, y, draws)
