"""What a rule for the length of steps answers to, and what it may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from fedsim.losses import Loss
from fedsim.objectives import Step

Named = Mapping[str, Tensor]
"""Parameters, or changes of them: name -> (K, *shape)."""


@dataclass(frozen=True)
class Proposal:
    """A local step of K clients as their optimizer would take it."""

    step: Step
    """Its source, batch, tasks and number; `params` are what the optimizer has made of them already."""
    points: Tensor
    """What the gradient was taken on, (K, B, *shape)."""
    loss: Loss | None
    """Of these points; None: the one for such labels."""
    before: Named
    """Where the step starts from."""
    change: Named
    """What it would add: with learning rate, momentum, decay and all."""
    gradient: Named
    """Raw, of the mean loss of each client's batch, as the optimizer was given it."""


class Rule(Protocol):
    """Shortens or lengthens proposed steps. It does to a stack what it does to each client alone."""

    effort: ClassVar[float]
    """What a look at a proposal costs, in plain gradients of a batch."""

    def factors(self, proposal: Proposal) -> Tensor:
        """What each client's change is multiplied by, (K,); 1 leaves it as it is, to the bit."""
        ...


def taken(proposal: Proposal, factors: Tensor) -> dict[str, Tensor]:
    """The models after the step, name -> (K, *shape)."""
    models = {}
    for name, change in proposal.change.items():
        factor = factors.to(change).view(-1, *[1] * (change.dim() - 1))
        whole = proposal.step.params[name].view_as(change)
        models[name] = whole.where(factor == 1, proposal.before[name] + factor * change)
    return models
