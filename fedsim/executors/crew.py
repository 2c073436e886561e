"""Those who train at the same time, wherever they are: what is under way with them, and what has come of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from fedsim.work import LocalResult, LocalTask


class Flight(Protocol):
    """Tasks that are trained together."""

    tasks: Sequence[LocalTask]

    def landed(self) -> Sequence[LocalResult]:
        """What has come of them, in the same order, waited for; raises what training raises."""
        ...


class Crew(ABC):
    """Trains several stacks at a time."""

    def __init__(self, most: int):
        """`most` tasks make a stack."""
        self.most = most
        self.flights: dict[int, tuple[Flight, int]] = {}
        """By a task's identity: where it is trained, and in which place."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many stacks."""

    @abstractmethod
    def send(self, tasks: Sequence[LocalTask]) -> Flight:
        """Have a stack trained by whoever is free first, and wait for nothing."""

    def flying(self, task: LocalTask) -> bool:
        """Whether it is under way, or has landed and was not asked for."""
        return id(task) in self.flights

    def launch(self, tasks: Sequence[LocalTask]) -> None:
        """Have them trained, shared out evenly, and wait for nothing."""
        size = max(1, min(self.most, -(-len(tasks) // self.size)))
        for start in range(0, len(tasks), size):
            flight = self.send(tasks[start : start + size])
            self.flights |= {id(task): (flight, place) for place, task in enumerate(flight.tasks)}

    def __call__(self, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """Their results, in the same order; raises what training raises."""
        self.launch([task for task in tasks if not self.flying(task)])
        return [self.land(task) for task in tasks]

    def land(self, task: LocalTask) -> LocalResult:
        """What has come of a task that is under way; alone once more if its company may be what broke it."""
        flight, place = self.flights.pop(id(task))
        try:
            return flight.landed()[place]
        except Exception:
            if len(flight.tasks) == 1:
                raise
            return self.send([task]).landed()[0]
