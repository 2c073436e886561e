"""How what clients visit is cut into the batches of steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedsim.gradients.per_example import EachExample
from fedsim.growth.growth import Growth
from fedsim.objectives import Step
from fedsim.objectives.term import Term
from fedsim.work import LocalTask

KEY = "growth"
"""Of the size that a client has reached, in what it keeps."""


@dataclass
class Pace:
    """Spans of what each client of a stack visits, a step each: all of one size, or of a size that a growth decides.

    A training is a number of visits, known beforehand: larger batches use them up in fewer steps, and the last one
    takes what is left. With a growth a stack is one client.
    """

    first: int
    """Examples of a batch at first."""
    visits: int
    """Of the one who makes the most."""
    growth: Growth | None = None
    source: EachExample | None = None
    """Of gradients for the growth."""
    most: int = 0
    """No batch grows beyond it."""
    size: int = field(default=0)
    """Of the next batch."""
    steps: int = field(default=0, init=False)
    """That were taken."""
    start: int = field(default=0, init=False)
    """Of the present span."""

    @classmethod
    def of(cls, tasks: Sequence[LocalTask], first: int, held: int, growth: Growth | None,
           source: EachExample | None) -> Pace:  # fmt: skip
        """Of clients that start now, the longest first, of whom the first holds so many examples."""
        visits = tasks[0].steps * first
        if growth is None:
            return cls(first, visits, size=first)
        reached = tasks[0].kept.own.get(KEY, first)
        return cls(first, visits, growth, source, min(growth.most, held), int(reached))

    def __iter__(self) -> Iterator[slice]:
        """As each is asked for, of the size that it then has."""
        end = 0
        while end < self.visits:
            self.start, end = end, min(end + self.size, self.visits)
            yield slice(self.start, end)
            self.steps += 1

    @property
    def ahead(self) -> float:
        """By how many steps of the first size the present one begins later than its number says."""
        return self.start / self.first - self.steps

    def look(self, step: Step, terms: Sequence[Term]) -> None:
        """At a step before it is taken, and decide on the next one's size."""
        if self.growth is not None and self.source is not None and self.size < self.most:
            self.size = self.growth.next(self.size, self.most, gradients(self.source, step, terms))

    @property
    def kept(self) -> Mapping[str, Tensor]:
        """What the client keeps of it."""
        return {} if self.growth is None else {KEY: torch.tensor(self.size)}

    def rows(self, task: LocalTask) -> list[dict[str, int]]:
        """Of a table of trainings, one where batches grow; `batch` is what the client's next training begins with."""
        if self.growth is None:
            return []
        facts = {"client": task.client, "training": task.ordinal, "steps": self.steps}
        return [{**facts, "examples": self.visits, "batch": self.size}]


def gradients(source: EachExample, step: Step, terms: Sequence[Term]) -> Tensor:
    """A lone client's, of its only term's points, (B, P)."""
    [term] = terms
    offset = () if term.offset is None else (term.offset[0],)
    params = {name: part[0] for name, part in step.params.items()}
    each, _ = source.each(params, term.points[0], term.y[0], term.loss, *offset)
    return term.weight * step.layout.join(each)
