"""What a source of gradients for local steps answers to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from fedsim.losses import Loss
from fedsim.objectives import Step

Found = tuple[dict[str, Tensor], Tensor]
"""Gradients, name -> (K, *shape), and the losses of examples, (K, B)."""


class Source(Protocol):
    """Of the gradients that the optimizer of K clients is given. What it does to a stack it does to each client."""

    @property
    def effort(self) -> float:
        """What it costs, in plain gradients."""
        ...

    def gradients(self, step: Step, points: Tensor, loss: Loss | None) -> Found:
        """Of a step that learns from these points (K, B, *shape) by this loss."""
        ...


@dataclass(frozen=True)
class Backpropagation:
    """The gradient of the loss where the client is."""

    @property
    def effort(self) -> float:
        """See `Source`."""
        return 1.0

    def gradients(self, step: Step, points: Tensor, loss: Loss | None) -> Found:
        """See `Source`."""
        return step.source(step.params, points, step.y, loss, step.offset)


PLAIN = Backpropagation()
