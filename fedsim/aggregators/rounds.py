"""Synchronous rounds, with over-selection and a deadline."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field

from fedsim.aggregators.aggregator import Aggregator, Count, Many
from fedsim.units import Duration
from fedsim.work import Update


@dataclass
class Rounds(Aggregator, ABC):
    """Starts `cohort` clients a round and steps on the first `goal` that return, or on those heard by the deadline.

    Over-selection and deadline as in Bonawitz et al., MLSys 2019. Late updates are ignored. A round in which nobody
    takes part, or nobody is heard, leaves model and memories as they are and is not counted as a version.
    """

    cohort: Many = 10
    """How many are asked, of those that take part in the round."""
    goal: Count | None = None
    """How many updates end a round; all of the cohort if not given."""
    minimum: Count = 1
    """A round does not begin with fewer clients at hand."""
    deadline: Annotated[Duration, Field(gt=0)] | None = None
    synchronous: ClassVar[bool] = True
    awaited: set[int] = field(default_factory=set, init=False)
    """Of this round, still to come."""
    heard: list[Update] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.cohort == "all":
            return
        for name, least in (("goal", self.goal or 1), ("minimum", self.minimum)):
            if least > self.cohort:
                raise ValueError(f"{name} is {least}, but only {self.cohort} clients (cohort) are started in a round")

    @property
    def asked(self) -> int | None:
        """The goal, or the cohort."""
        return self.goal or (None if self.cohort == "all" else self.cohort)

    def leave(self, clients: Iterable[int]) -> list[int]:
        """A round that waits for nobody any more is over."""
        clients = set(clients)
        waiting = bool(self.awaited)
        self.awaited -= clients
        self.roster.leave(clients)
        return self.finish() if waiting and not self.awaited else []

    def take(self, update: Update) -> bool:
        """Keep it if its round is still open."""
        if update.client not in self.awaited:
            return False
        self.awaited.remove(update.client)
        self.heard.append(update)
        return True

    def refill(self) -> list[int]:
        """Finish a round that is full, begin one if none is open, else nobody."""
        if self.heard and (len(self.heard) == self.goal or not self.awaited):
            return self.finish()
        return [] if self.awaited else self.begin()

    def expire(self) -> list[int]:
        """Make do with those heard so far."""
        return self.finish()

    def finish(self) -> list[int]:
        """Step on the updates heard, and begin the next round."""
        heard, self.heard, self.awaited = self.heard, [], set()
        self.step(heard)
        return self.begin()

    def begin(self) -> list[int]:
        """Ask a cohort."""
        if len(self.roster.idle) < self.minimum:
            return []
        started = self.start(self.cohort)
        self.awaited = set(started)
        self.round += bool(started)
        return started
