"""FedAvg: synchronous rounds, with over-selection and a deadline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from fedsim.aggregators.aggregator import Aggregator, Count, Rate, in_client_order
from fedsim.units import Duration
from fedsim.vector import weighted_sum
from fedsim.work import Update


@dataclass
class FedAvg(Aggregator):
    """Starts `cohort` clients a round and steps on the first `goal` that return, or on those heard by the deadline.

    McMahan et al., AISTATS 2017, Algorithm 1; over-selection and deadline as in Bonawitz et al., MLSys 2019. Late
    updates are ignored. A round in which nobody is heard leaves the model as it is and is not counted as a version.
    """

    cohort: Count = 10
    goal: Count | None = None
    """How many updates end a round; all of the cohort if not given."""
    minimum: Count = 1
    """A round does not begin with fewer clients at hand."""
    deadline: Duration | None = None
    weights: Literal["examples", "uniform"] = "examples"
    lr: Rate = 1.0
    synchronous: ClassVar[bool] = True
    awaited: set[int] = field(default_factory=set, init=False)
    """Of this round, still to come."""
    heard: list[Update] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.goal is None:
            self.goal = self.cohort
        if self.goal > self.cohort:
            raise ValueError(f"goal is {self.goal}, but only {self.cohort} clients (cohort) are started in a round")
        if self.minimum > self.cohort:
            raise ValueError(f"minimum is {self.minimum}, but a round starts no more than {self.cohort} (cohort)")

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
        """Step along the mean of the updates heard, and begin the next round."""
        updates = in_client_order(self.heard)
        if updates:
            share = [update.examples if self.weights == "examples" else 1 for update in updates]
            scale = self.lr / sum(share)
            self.params = self.params + weighted_sum([u.delta for u in updates], [n * scale for n in share])
            self.version += 1
        self.heard = []
        self.awaited = set()
        return self.begin()

    def begin(self) -> list[int]:
        """Ask a cohort."""
        if len(self.roster.idle) < self.minimum:
            return []
        started = self.roster.start(self.cohort)
        self.awaited = set(started)
        self.round += bool(started)
        return started
