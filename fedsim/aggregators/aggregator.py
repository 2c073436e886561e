"""What every server algorithm answers to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from fedsim.roster import Roster
from fedsim.work import Update

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


@dataclass
class Aggregator(ABC):
    """A server algorithm. Each verb answers with the clients that are to start now, from `params` at `version`.

    A driver (virtual or real) calls the verbs one at a time. If `deadline` is not None it sets a timer of so many
    microseconds whenever `round` has changed, and calls `expire` when it runs out in that same round.
    """

    params: Tensor
    """The model, flat (P,); replaced, never written to."""
    roster: Roster
    _: KW_ONLY
    version: int = field(default=0, init=False)
    """How many server steps have been taken."""
    round: int = field(default=0, init=False)
    """How many timers' worth of work have begun."""
    synchronous: ClassVar[bool] = False
    """Whether updates that come too late are thrown away."""
    deadline: int | None = field(default=None, init=False)

    def join(self, clients: Iterable[int]) -> list[int]:
        """These clients can be asked from now on."""
        self.roster.join(clients)
        return self.refill()

    def leave(self, clients: Iterable[int]) -> list[int]:
        """These clients are gone, and their work in progress is lost."""
        self.roster.leave(clients)
        return self.refill()

    def receive(self, update: Update) -> list[int]:
        """A client has finished and is free again."""
        self.roster.back(update.client)
        if self.take(update):
            self.roster.heard(update)
        return self.refill()

    def expire(self) -> list[int]:
        """The deadline of the present round has passed."""
        return []

    @abstractmethod
    def take(self, update: Update) -> bool:
        """Make what the algorithm makes of an update; whether it counts for anything."""

    @abstractmethod
    def refill(self) -> list[int]:
        """Whom to start now, if anybody."""


def in_client_order(updates: list[Update]) -> list[Update]:
    """The order in which updates are summed, so that arrival cannot change a bit; one client's keep their turn."""
    return sorted(updates, key=lambda update: update.client)
