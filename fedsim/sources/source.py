"""What a source of gradients for local steps answers to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from fedsim.objectives import Step
from fedsim.objectives.term import Found, Term, slopes
from fedsim.optimizers.retake import Retake


class Source(Protocol):
    """Of the gradients that the optimizer of K clients is given. What it does to a stack it does to each client."""

    remembers: ClassVar[bool]
    """Whether a training depends on what the client's last one has left in the memory of its steps."""

    def effort(self, terms: int) -> float:
        """What it costs, in plain gradients, where so many losses are added up."""
        ...

    def gradients(self, step: Step, terms: Sequence[Term]) -> Found:
        """Of a step that minimises these."""
        ...


@runtime_checkable
class Retaking(Protocol):
    """A source that looks back at steps."""

    def after(self, step: Step, terms: Sequence[Term], retake: Retake) -> None:
        """A step that minimises these has been taken: `step.params` are what it has made of the models. Some clients'
        may be taken back."""
        ...


@dataclass(frozen=True)
class Backpropagation:
    """The gradient of the loss where the client is."""

    remembers: ClassVar[bool] = False

    def effort(self, terms: int) -> float:
        """See `Source`: losses are added up before anything goes backward."""
        return 1.0

    def gradients(self, step: Step, terms: Sequence[Term]) -> Found:
        """See `Source`."""
        return slopes(step.source, step.params, terms)


PLAIN = Backpropagation()
