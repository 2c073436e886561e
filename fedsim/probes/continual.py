"""Continual evaluation inside local trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.data import Dataset
from fedsim.objectives import Step
from fedsim.rng import stream

FORWARD = 1 / 3
"""Of a training."""


@dataclass(frozen=True)
class Continual:
    """Accuracy on each task by the client's present model, before its first step and after each: the stability gap.

    De Lange et al., Continual evaluation for lifelong learning (ICLR 2023); what to make of the curves is in
    `fedsim.continual`. A task is judged on so many of its test `examples`, drawn once by the seed: the paper's code
    draws anew for every evaluation, which biases minima down. Of data that do not come in tasks, each class is one.
    """

    seed: int
    dataset: Dataset
    examples: Annotated[int, Field(ge=1)] = 60
    """Of each task; fewer if there are no more."""

    @property
    def lacks(self) -> str | None:
        """See `Probe`."""
        return None if self.dataset.has_classes else "is for classes, which these data do not have"

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """Of the test set, by task."""
        codes = self.dataset.y_test.numpy() if self.dataset.test_tasks is None else self.dataset.test_tasks
        members = [np.flatnonzero(codes == task) for task in np.unique(codes)]
        return [np.sort(stream(self.seed, "probe", task).permutation(own)[: self.examples])
                for task, own in enumerate(members)]  # fmt: skip

    @property
    def columns(self) -> Sequence[str]:
        """See `Probe`."""
        kind = "class" if self.dataset.test_tasks is None else "task"
        return [f"{kind}_{task}" for task in range(len(self.rows))]

    def effort(self, steps: int, batch: int) -> float:
        """See `Probe`."""
        return FORWARD * sum(map(len, self.rows)) * (steps + 1) if steps else 0.0

    def before(self, step: Step) -> Tensor | None:
        """See `Probe`."""
        return None if step.number else self.after(step)

    def after(self, step: Step) -> Tensor:
        """See `Probe`."""
        x, y = self._examples
        scores = step.source.scores(step.params, x.to(step.x.device).expand(len(step.tasks), *x.shape))
        right = (scores.argmax(2).cpu() == y).double()
        return torch.stack([own.mean(1) for own in right.split([len(rows) for rows in self.rows], 1)], 1)

    @cached_property
    def _examples(self) -> tuple[Tensor, Tensor]:
        """All tasks' in a row, and their labels."""
        rows = np.concatenate(self.rows)
        return self.dataset.x_test[rows], self.dataset.y_test[rows]
