"""Nobody computes anything twice: wait for all, or for all but the slowest, or let copies race the slowest."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fedsim.coding.code import Chunk, Code, Combination, MiniTask, Tasks, whole_parts
from fedsim.fleet.patterns import Some


@dataclass(kw_only=True)
class OwnData(Code, ABC):
    """Every worker sends the gradient on its own data."""

    @property
    def delay(self) -> int:
        """None."""
        return 0

    @property
    def load(self) -> float:
        """One part of n."""
        return 1 / self.workers

    @property
    def chunks(self) -> Sequence[Chunk]:
        """One an owner."""
        return whole_parts(self.workers)

    def prepare(self) -> None:
        """One chunk each."""
        self.own = [Combination((worker,), (1.0,), coded=False) for worker in range(self.workers)]

    def plan(self, round: int) -> list[Tasks]:
        """Everybody the new job."""
        return [(MiniTask(round, own),) if self.exists(round) else () for own in self.own]

    def decode(self, job: int) -> dict[Combination, float]:
        """Scaled up, where parts are equal, to the mean over those that were heard."""
        return dict.fromkeys(self.delivered[job], self.workers / len(self.delivered[job]))


@dataclass(kw_only=True)
class Uncoded(OwnData):
    """Waits for everybody, or for all but the `ignore` slowest: then what is decoded is not the whole gradient.

    With mu 0 and somebody to ignore that is K-sync SGD (Dutta et al., AISTATS 2018).
    """

    ignore: Some = 0
    """How many are not waited for."""

    @property
    def exact(self) -> bool:
        """Unless somebody is ignored."""
        return self.ignore == 0

    def prepare(self) -> None:
        """One chunk each."""
        if self.ignore >= self.workers:
            raise ValueError(f"of {self.workers} workers {self.ignore} cannot be ignored")
        super().prepare()

    def conforms(self) -> bool:
        """Whether enough were heard."""
        return int(self.late.sum()) <= self.ignore

    def complete(self, job: int) -> bool:
        """Likewise."""
        return len(self.delivered[job]) >= self.workers - self.ignore


@dataclass(kw_only=True)
class Backup(OwnData):
    """Once others are late, whoever is done takes over a task of theirs, and the first answer counts.

    Speculative execution of backup tasks: Dean and Ghemawat, MapReduce (OSDI 2004), section 3.6. Nobody is ignored.
    """

    copied: set[int] = field(default_factory=set, init=False, repr=False)
    """Whose task of this round has a copy."""

    def plan(self, round: int) -> list[Tasks]:
        """Everybody the new job."""
        self.copied = set()
        return super().plan(round)

    def conforms(self) -> bool:
        """Whether every task was answered, by whomever."""
        return all(self.complete(job) for job in self.delivered)

    def complete(self, job: int) -> bool:
        """Likewise."""
        return len(self.delivered[job]) == self.workers

    def backup(self, worker: int) -> Tasks:
        """A copy of the first task that has neither an answer nor a copy."""
        answered = self.delivered.get(self.round, {})
        for late in np.flatnonzero(self.late).tolist():
            if late not in self.copied and self.own[late] not in answered:
                self.copied.add(late)
                return (MiniTask(self.round, self.own[late]),)
        return ()
