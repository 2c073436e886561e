"""What a gradient code is: a state machine over rounds and mini-tasks. It knows no time, and no numbers of learning.

In every round the master gives workers mini-tasks, hears of them, and may end the round as soon as the pattern of those
who have not answered `conforms`. A job is one gradient; it is complete as soon as it can be decoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from fedsim.fleet.patterns import Count, Pattern


class Chunk(NamedTuple):
    """Data of one owner: what lies between two shares of them."""

    owner: int
    start: float
    end: float


@dataclass(frozen=True, eq=False)
class Combination:
    """A sum of chunks' gradients, with coefficients: what a message says of one job."""

    chunks: tuple[int, ...]
    coefficients: tuple[float, ...]
    coded: bool
    """Whether it is good for nothing but decoding: then it travels in float64."""

    @classmethod
    def of(cls, row: np.ndarray, chunks: Sequence[int]) -> Combination:
        """That of a row of a code's matrix, whose columns stand for these chunks."""
        [support] = row.nonzero()
        values = row[support]
        coded = not np.array_equal(values, np.ones_like(values))
        return cls(tuple(chunks[place] for place in support.tolist()), tuple(values.tolist()), coded)


class MiniTask(NamedTuple):
    """One combination, for one job."""

    job: int
    combination: Combination


Tasks = tuple[MiniTask, ...]


@dataclass(kw_only=True)
class Code(ABC):
    """The base of all. `workers`, `jobs` (None: without end) and `seed` are given by the run.

    Job t trains model t mod `models`, and is decoded at the latest when `delay` more rounds are over; so it needs more
    models than that.
    """

    models: Count | None = None
    """How many are trained in turn; None: no more than the delay asks for."""
    mu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Who needs more than 1 + mu times as long as the fastest of its round is a straggler, if the code can bear it."""
    wait_out: Literal["pattern", "all"] = "pattern"
    """Where the code cannot bear all who are late: wait until it can bear those still missing, or for everybody."""
    workers: int = 1
    jobs: int | None = None
    seed: int = 0
    round: int = field(default=-1, init=False)
    heard: np.ndarray = field(init=False, repr=False)
    """Who has answered in this round, or was asked nothing, bool (workers,)."""
    past: list[np.ndarray] = field(default_factory=list, init=False, repr=False)
    """Who has straggled in each round that is over."""
    delivered: dict[int, dict[Combination, int]] = field(default_factory=dict, init=False, repr=False)
    """Of each job that is not complete: what was heard, and from whom."""

    def __post_init__(self) -> None:
        self.models = self.models or self.delay + 1
        if self.delay >= self.models:
            raise ValueError(f"a delay of {self.delay} rounds needs models: {self.delay + 1} at least, "
                             f"trained in turn, not {self.models}")  # fmt: skip
        self.prepare()

    # What makes a code ----------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def delay(self) -> int:
        """T: a job given out in round t can be decoded when round t + T is over."""

    @property
    @abstractmethod
    def load(self) -> float:
        """The part of a job's data that a worker looks at in a round, by the paper's formula."""

    @property
    @abstractmethod
    def chunks(self) -> Sequence[Chunk]:
        """Into what a job's data are cut; together they are everything, once."""

    @property
    def exact(self) -> bool:
        """Whether what is decoded is the gradient itself."""
        return True

    @abstractmethod
    def prepare(self) -> None:
        """Make the combinations; ValueError if there is no such code."""

    @abstractmethod
    def plan(self, round: int) -> list[Tasks]:
        """What every worker has to do in this round."""

    @abstractmethod
    def conforms(self) -> bool:
        """Whether the code can bear that this round ends with those who were heard."""

    @abstractmethod
    def complete(self, job: int) -> bool:
        """Whether it can be decoded from what was delivered."""

    @abstractmethod
    def decode(self, job: int) -> dict[Combination, float]:
        """With which weights what was delivered adds up to the job's gradient, in float64."""

    def backup(self, worker: int) -> Tasks:
        """What somebody who has finished should do besides, once others are late."""
        return ()

    # What all of them have ------------------------------------------------------------------------------------------

    def assign(self, round: int) -> list[Tasks]:
        """Begin a round: what every worker has to do."""
        self.round = round
        if self.exists(round):
            self.delivered[round] = {}
        tasks = self.plan(round)
        self.heard = np.array([not own for own in tasks])
        return tasks

    def arrived(self, worker: int, tasks: Tasks) -> None:
        """A worker has answered all of this."""
        self.heard[worker] = True
        for job, combination in tasks:
            if job in self.delivered:
                self.delivered[job].setdefault(combination, worker)

    def end(self) -> list[int]:
        """The round is over: who has not answered has straggled. The jobs that are complete now, in order."""
        self.past.append(~self.heard)
        return [job for job in self.delivered if self.complete(job)]

    def forget(self, job: int) -> None:
        """It has been decoded."""
        del self.delivered[job]

    def exists(self, job: int) -> bool:
        """Whether there is such a job."""
        return job >= 0 and (self.jobs is None or job < self.jobs)

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do."""
        return self.jobs is not None and self.round >= self.jobs + self.delay - 1

    @property
    def late(self) -> np.ndarray:
        """Who has not answered yet, bool (workers,)."""
        return ~self.heard

    def bears(self, pattern: Pattern, past: Sequence[np.ndarray] | None = None) -> bool:
        """Whether a pattern admits those who are late, after all who have straggled, or after `past`."""
        past = self.past if past is None else past
        recent = past[max(0, len(past) - pattern.span + 1) :]
        return bool(pattern.admits(np.array(recent, dtype=bool).reshape(-1, self.workers), self.late))


def whole_parts(workers: int) -> list[Chunk]:
    """Every owner's data as one chunk."""
    return [Chunk(owner, 0.0, 1.0) for owner in range(workers)]
