"""What weights of examples say of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.data import Dataset, Parts
from fedsim.objectives import Step


@dataclass(frozen=True)
class Cleaning:
    """After each step, a client's mean weight of clean and of noisy examples, and how well weights tell them apart.

    `auc`: the chance that a clean example weighs more than a noisy one. Weights are those of source `borep`.
    """

    dataset: Dataset
    parts: Parts

    @property
    def lacks(self) -> str | None:
        """See `Probe`."""
        return None if self.parts.labels is not None else "looks for noisy labels, which these clients do not have"

    @property
    def columns(self) -> Sequence[str]:
        """See `Probe`."""
        return "clean_weight", "noisy_weight", "auc"

    def effort(self, steps: int, batch: int) -> float:
        """See `Probe`."""
        return 0.0

    def before(self, step: Step) -> None:
        """See `Probe`."""
        return None

    def after(self, step: Step) -> Tensor:
        """See `Probe`."""
        each = zip(step.tasks, step.memory, strict=True)
        return torch.tensor([self.told(task.client, memory["x"].sigmoid().cpu().numpy()) for task, memory in each])

    def told(self, client: int, weights: np.ndarray) -> tuple[float, float, float]:
        """Of a client's weights (n,); NaN of what it has none of."""
        assert self.parts.labels is not None
        clean = self.parts.labels[client] == self.dataset.y[self.parts.indices[client]].numpy()
        good, bad = weights[clean], weights[~clean]
        means = [float(own.mean()) if len(own) else float("nan") for own in (good, bad)]
        return means[0], means[1], auc(good, bad)


def auc(good: np.ndarray, bad: np.ndarray) -> float:
    """The chance that one of the good is higher than one of the bad, half of it where they are equal.

    >>> auc(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
    0.875
    """
    if not len(good) or not len(bad):
        return float("nan")
    from scipy.stats import rankdata  # slow to import, and few need it

    ranks = rankdata(np.concatenate([good, bad]))[: len(good)]
    return float((ranks.sum() - len(good) * (len(good) + 1) / 2) / (len(good) * len(bad)))
