"""Schedules by refinement: what a training's gradients say about how long the next one's steps should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field
from torch import Tensor

from fedsim.gradients.norms import norms
from fedsim.optimizers import Recipe
from fedsim.steps.rule import Proposal
from fedsim.work import LocalTask

FLOOR = 1e-6
"""Of the largest norm: smaller ones, such as 0, count as so much, as their inverse would be all that counts."""


def refined(norms: np.ndarray, power: float = 2.0, tau: float = 0.1) -> np.ndarray:
    """Factors (T,) of the learning rate in [0, 1], from the gradients' norms (T,) of a training of as many steps.

    Defazio et al., When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement (2310.07831): with w_t =
    G_t^-power of the filtered norms, eta_t = w_t sum_{p > t} w_p, over their largest. `power` is 2 for SGD with
    2-norms, 1 for Adam with 1-norms; `tau` is the filter's width, of T. The last step is not taken.

    >>> refined(np.ones(5)).tolist(), refined(np.array([4.0, 2.0, 1.0, 1.0]), tau=0).tolist()
    ([1.0, 0.75, 0.5, 0.25, 0.0], [0.140625, 0.5, 1.0, 0.0])
    """
    if len(norms) < 2 or not (known := norms[np.isfinite(norms) & (norms > 0)]).size:
        return 1 - np.arange(len(norms)) / max(1, len(norms) - 1)
    known = np.nan_to_num(norms, nan=known.max(), posinf=known.max()).clip(FLOOR * known.max())
    weights = (median_filtered(known, tau) / known.max()) ** -power
    factors = weights * np.append(weights[:0:-1].cumsum()[::-1], 0.0)
    return factors / factors.max()


def median_filtered(norms: np.ndarray, tau: float) -> np.ndarray:
    """Each one's median with its neighbours, 2 floor(tau T / 2) + 1 in all: the last reflected, the first repeated.

    >>> median_filtered(np.array([1.0, 9.0, 2.0, 3.0, 4.0]), tau=0.4).tolist()
    [1.0, 2.0, 3.0, 3.0, 3.0]
    """
    half = int(tau * len(norms) / 2)
    padded = np.pad(np.pad(norms, (0, half), mode="reflect"), (half, 0), mode="edge")
    return np.median(sliding_window_view(padded, 2 * half + 1), axis=1)


@dataclass(frozen=True, kw_only=True)
class Refined:
    """Over the round: a client's first training is `linear`, every later one follows the gradients of its last one.

    Defazio et al. (2310.07831), see `fedsim.steps.refined.refined`: 2-norms for SGD, 1-norms for others, of gradients
    as the optimizer gets them. The paper refines a run by an earlier one; here a client refines a training by its
    last. Another number of steps reads the same schedule by the share that is done. It keeps one number a step.

    Where gradients vanish on the way, as in networks that learn all their examples, it becomes one long warm-up; where
    a round has few steps of small batches it follows their noise, peaks at the least norm, and wants a wider filter.
    """

    tau: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The median filter's width, as a share of the steps."""
    optimizer: Recipe
    """The clients', given by the run."""
    effort: ClassVar[float] = 0.0
    classes: ClassVar[bool] = False

    @property
    def order(self) -> int:
        """Of the norm, and of the power of its inverse."""
        return 2 if getattr(self.optimizer, "kind", None) is torch.optim.SGD else 1

    def factors(self, proposal: Proposal) -> Tensor:
        """See `Rule`."""
        return torch.tensor([self.factor(task, proposal.step.number) for task in proposal.step.tasks])

    def factor(self, task: LocalTask, number: int) -> float:
        """Of a task's step."""
        schedule = task.kept.steps.get(type(self).__name__)
        if schedule is None:
            return 1 - number / task.steps
        return float(schedule[number * len(schedule) // task.steps])

    def note(self, proposal: Proposal) -> Tensor:
        """See `Learning`: the norm."""
        return norms(proposal.gradient, self.order)

    def learnt(self, notes: Tensor) -> Tensor:
        """See `Learning`: the schedule."""
        return torch.from_numpy(refined(notes.numpy(), self.order, self.tau))
