"""What a local step minimises: on which points, by which loss, at which price."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Generator, Tensor

from fedsim.gradients import Gradients
from fedsim.objectives.term import Term
from fedsim.vector import Layout
from fedsim.wire.codec import generator
from fedsim.work import LocalTask


@dataclass(frozen=True)
class Step:
    """A local step of K clients that train together, before it is taken."""

    source: Gradients
    params: Mapping[str, Tensor]
    """Their models now, name -> (K, *shape)."""
    x: Tensor
    """Their own examples, (K, B, *shape)."""
    y: Tensor
    offset: Tensor | None
    """What the objective adds to their scores, (K, outputs)."""
    tasks: Sequence[LocalTask]
    number: int
    """Of the step in their training, from 0."""
    seed: int
    layout: Layout
    rows: Tensor
    """Which of all examples theirs are, (K, B)."""
    look_up: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Examples and labels of any rows (...,) of the data, as they are: (..., *shape) and (..., *label)."""
    memory: Sequence[dict[str, Tensor]]
    """What each client keeps for its next steps, and its next training if whoever writes it `remembers`. Tensors in it
    are replaced, never written to."""
    personal: Collection[str] = ()
    """Parameters that stay with the client, by name."""
    ahead: float = 0.0
    """By how many steps, each of as many examples as the first, their training is further than `number` says: where
    batches have grown."""

    @property
    def start(self) -> dict[str, Tensor]:
        """The models that they have started from, name -> (K, *shape)."""
        return self.layout.unflatten(torch.stack([task.params for task in self.tasks]))

    def draws(self, name: str) -> list[Generator]:
        """Each client's own randomness for this step, under a name."""
        return [generator(self.seed, name, task.client, task.ordinal, self.number) for task in self.tasks]


class Objective(Protocol):
    """What clients minimise. It does to a stack what it does to each client alone."""

    classes: ClassVar[bool]
    """Whether it makes sense of classes alone, not of points."""
    points: ClassVar[int]
    """How many points are learnt from for each example."""
    losses: ClassVar[int]
    """How many losses it adds up."""
    discloses: ClassVar[str | None]
    """What of a client's data its gradients depend on, besides one example each; None: nothing."""
    remembers: ClassVar[bool]
    """Whether a training depends on what the client's last one has left in the memory of its steps."""

    @property
    def further(self) -> int:
        """How many scores it reads beside those of outputs."""
        ...

    @property
    def effort(self) -> float:
        """What a step costs, in plain trainings on its examples: forward is a third, back to the input another."""
        ...

    def effort_of(self, client: int) -> float:
        """The same of one client, where they differ."""
        ...

    def gradients(self, source: Gradients) -> Gradients:
        """How gradients are taken of its points, by those of a batch."""
        ...

    def offset(self, tasks: Sequence[LocalTask]) -> Tensor | None:
        """What is added to each client's scores while it trains, (K, outputs); None: nothing."""
        ...

    def phase(self, task: LocalTask) -> Hashable:
        """What clients have to have in common to be one stack."""
        ...

    def terms(self, step: Step) -> Sequence[Term]:
        """The losses to minimise, and the points that they are of; the first is what a client reports."""
        ...


@dataclass(frozen=True)
class Plain:
    """The loss of the examples as they are."""

    classes: ClassVar[bool] = False
    points: ClassVar[int] = 1
    losses: ClassVar[int] = 1
    discloses: ClassVar[str | None] = None
    remembers: ClassVar[bool] = False

    @property
    def further(self) -> int:
        """See `Objective`."""
        return 0

    @property
    def effort(self) -> float:
        """See `Objective`."""
        return 1.0

    def effort_of(self, client: int) -> float:
        """See `Objective`."""
        return self.effort

    def gradients(self, source: Gradients) -> Gradients:
        """See `Objective`."""
        return source

    def offset(self, tasks: Sequence[LocalTask]) -> Tensor | None:
        """See `Objective`."""
        return None

    def phase(self, task: LocalTask) -> Hashable:
        """See `Objective`."""
        return None

    def terms(self, step: Step) -> Sequence[Term]:
        """See `Objective`."""
        return (Term("loss", step.x, step.y, offset=step.offset),)
