"""A server and its clients where time is told from outside: by the wall, or by the record of what happened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from fedsim.clock import DEADLINE, FIRST_RANK, Failure, Moment, Steps
from fedsim.server import ServerSimulation
from fedsim.trace import TRAIN, UNASKED, UPLOAD
from fedsim.units import FOREVER
from fedsim.work import Deferred, LocalTask, Release

LAST = DEADLINE + 1
"""What is told from outside comes after all that was to happen at its instant."""


class Timed(NamedTuple):
    """A training that has been heard of, and when it began and ended."""

    pending: Deferred
    began: int
    ended: int


@dataclass
class LiveCell(ServerSimulation, ABC):
    """Started clients answer, fail, come and go when that is told; timers run out at their time, as in a simulation.

    Two things that are told must not share their microsecond. So the trace alone says what happened in which order,
    deadlines too, and an aggregator that is told the same again does the same.
    """

    waiting: dict[int, Moment] = field(default_factory=dict, init=False)
    """What each client at work waits for."""
    told: dict[int, Timed | None] = field(default_factory=dict, init=False)
    """What it has waited for; None: it failed."""
    virtual: ClassVar[bool] = False
    quiet: bool = field(default=False, init=False)
    """Whether nothing has happened since the last measurement."""

    @abstractmethod
    def send(self, task: LocalTask) -> None:
        """A client is started."""

    def local(self, client: int, release: Release) -> Generator[int | Moment, None, Deferred]:
        """Start a client, and wait for what it has to say."""
        ordinal, version = self.ordinals[client], release.version
        self.ordinals[client] += 1
        self.send(self.task(client, release, ordinal))
        self.progress.downloaded(self.work.down)
        self.waiting[client] = Moment(self.clock, FIRST_RANK + client)
        try:
            yield self.waiting[client]
        finally:
            del self.waiting[client]
        timed = self.told.pop(client)
        if timed is None:
            raise Failure
        self.trace.add(timed.began, TRAIN, client, version, self.work.down)
        self.trace.add(timed.ended, UPLOAD, client, version)
        return timed.pending

    def upload(self, client: int, nbytes: int) -> Steps:
        """It has come already."""
        self.progress.uploaded(nbytes)
        yield from ()

    def tell(self, client: int, timed: Timed | None) -> None:
        """A client at work has answered, or failed."""
        self.told[client] = timed
        self.waiting[client].happen()

    def tell_late(self, client: int, version: int) -> None:
        """A client has answered that nobody waits for any more."""
        self.trace.add(self.clock.now, UNASKED, client, version)

    def pass_until(self, now: int) -> None:
        """Let happen what is due by now, and measure the model on the way; nothing more once a limit is reached."""
        progress, end = self.progress, self.progress.until.time or FOREVER
        while not progress.over:
            upcoming = self.clock.peek()
            if upcoming <= min(progress.horizon, now):
                self.clock.step()
                self.quiet = False
            elif progress.horizon >= now or (self.quiet and min(upcoming, end) > now):
                break
            elif self.quiet:
                progress.pass_over(upcoming)
                self.quiet = False
            else:
                progress.measure(self.aggregator, upcoming=0)
                self.quiet = True

    def happens(self, now: int, what: Callable[[], None]) -> None:
        """Something is told at this moment."""
        self.clock.call(now - self.clock.now, LAST, what)
        self.pass_until(now)

    def appear(self, now: int, clients: Iterable[int]) -> None:
        """Clients have come."""
        self.happens(now, lambda: self.come(sorted(clients)))

    def vanish(self, now: int, client: int) -> None:
        """A client has gone."""
        self.happens(now, lambda: self.go([client]))
