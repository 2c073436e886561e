"""What clients add to their gradients against drifting apart, as a server algorithm asks them to.

A correction belongs to one stack of clients; it does to a stack what it does to each client alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fedsim.vector import Layout
from fedsim.work import LocalTask

Left = tuple[Tensor | None, Tensor] | None
"""What stays with each client and what goes up beside its update, (K, P) each; None if nothing does."""


class Correction(Protocol):
    """Of the gradients of K clients that train together."""

    def add(self, grads: dict[str, Tensor], params: Mapping[str, Tensor]) -> None:
        """Replace the gradients (k, *shape) of the first k clients, at their parameters, by corrected ones.

        None is written to: autograd may have given two parameters the same memory.
        """
        ...

    def finish(self, tasks: Sequence[LocalTask]) -> Left:
        """What is left when all have trained."""
        ...


class Drift(Protocol):
    """Makes the correction of a stack."""

    keeps: ClassVar[bool]
    """Whether a training depends on what the client's last one has left."""

    def correction(self, tasks: Sequence[LocalTask], layout: Layout) -> Correction:
        """For clients that start now."""
        ...


@dataclass(frozen=True)
class Proximal:
    """Pulls towards the model that a client started from: the gradient of mu / 2 * |x - start|^2.

    FedProx (Li et al., MLSys 2020), Algorithm 2.
    """

    mu: float
    keeps: ClassVar[bool] = False

    def correction(self, tasks: Sequence[LocalTask], layout: Layout) -> Correction:
        """For clients that start now."""
        return _Pull(self.mu, layout.unflatten(torch.stack([task.params for task in tasks])))


@dataclass(frozen=True)
class _Pull:
    mu: float
    start: Mapping[str, Tensor]

    def add(self, grads: dict[str, Tensor], params: Mapping[str, Tensor]) -> None:
        for name, grad in grads.items():
            grads[name] = torch.add(grad, params[name] - self.start[name][: len(grad)], alpha=self.mu)

    def finish(self, tasks: Sequence[LocalTask]) -> None:
        return None


@dataclass(frozen=True)
class Offset:
    """Adds the same vector at every step, `task.sent` (P,); the mean of the plain gradients goes up beside the change.

    The local steps of gradient tracking (K-GT, Liu et al., 2024).
    """

    keeps: ClassVar[bool] = False

    def correction(self, tasks: Sequence[LocalTask], layout: Layout) -> Correction:
        """For clients that start now; nothing is added where nothing was sent."""
        return _Offset(tasks, layout)


class _Offset:
    def __init__(self, tasks: Sequence[LocalTask], layout: Layout):
        zero = torch.zeros_like(tasks[0].params)
        sent = torch.stack([zero if task.sent is None else task.sent for task in tasks])
        self.sum, self.steps = torch.zeros_like(sent), sent.new_zeros(len(sent), 1)
        self.offset, self.sums = layout.unflatten(sent), layout.unflatten(self.sum)

    def add(self, grads: dict[str, Tensor], params: Mapping[str, Tensor]) -> None:
        self.steps[: len(next(iter(grads.values())))] += 1
        for name, grad in grads.items():
            self.sums[name][: len(grad)] += grad
            grads[name] = grad + self.offset[name][: len(grad)]

    def finish(self, tasks: Sequence[LocalTask]) -> tuple[Tensor | None, Tensor]:
        return None, self.mean

    @property
    def mean(self) -> Tensor:
        """Of the plain gradients of each client, (K, P)."""
        return self.sum / self.steps.clamp_min(1)


@dataclass(frozen=True)
class ControlVariates:
    """Adds what the server's control variate differs by from the client's own: c - c_i, the same at every step.

    SCAFFOLD (Karimireddy et al., ICML 2020), Algorithm 1. The client's next control variate is the mean of its plain
    gradients on the way; under plain SGD that is the paper's option II, c_i - c + (x - y_i) / (K lr).
    """

    keeps: ClassVar[bool] = True

    def correction(self, tasks: Sequence[LocalTask], layout: Layout) -> Correction:
        """For clients that start now; `task.sent` is c, `task.kept.drift` is c_i (zero at first)."""
        return _Variates(tasks, layout)


class _Variates(_Offset):
    def __init__(self, tasks: Sequence[LocalTask], layout: Layout):
        super().__init__(tasks, layout)
        zero = torch.zeros_like(tasks[0].params)
        self.own = torch.stack([zero if task.kept.drift is None else task.kept.drift for task in tasks])
        for name, own in layout.unflatten(self.own).items():
            self.offset[name] = self.offset[name] - own

    def finish(self, tasks: Sequence[LocalTask]) -> tuple[Tensor, Tensor]:
        return self.mean, self.mean - self.own
