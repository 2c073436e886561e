"""Attacks on time: clients that answer when it suits them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import Field

from fedsim.clock import FIRST_RANK, Clock, Moment, Steps
from fedsim.units import Duration

if TYPE_CHECKING:
    from fedsim.cell import Cell
    from fedsim.coded import CodedSimulation


class Watch(Protocol):
    """What a client knows of the server while it could already upload."""

    @property
    def clock(self) -> Clock:
        """Everybody's."""
        ...

    @property
    def began(self) -> int:
        """When its round did, or it was started."""
        ...

    @property
    def uploading(self) -> int:
        """Microseconds that its upload takes, if nobody shares its way."""
        ...

    def limit(self) -> Generator[Moment, None, int | None]:
        """When the server will wait no longer, as soon as that is known; None: it has no such rule."""
        ...

    def behind(self) -> int:
        """How many steps the server has taken since this client began."""
        ...

    def come(self, versions: int, patience: int) -> Moment:
        """When the server has taken so many steps since then, or so many microseconds from now have passed."""
        ...


class Timing:
    """What a client does with its time."""

    factor: float = 1.0
    """Its local training takes so many times as long as it does honestly."""
    limited = False
    """Whether it needs a server that waits no longer than to a limit."""
    stale = False
    """Whether it needs a server that does not wait for it."""

    def hold(self, watch: Watch) -> Steps:
        """Keep the answer back."""
        yield from ()


@dataclass(frozen=True)
class Pace(Timing):
    """Work slower, so that others wait; or faster than is possible, as a free rider does who does not train.

    Whoever answers at once is never stale, and where slots are refilled at each arrival it is heard more often than all
    others: what a discount of staleness rewards.
    """

    factor: Annotated[float, Field(ge=0, le=1e6)] = 8.0


@dataclass(frozen=True)
class Linger(Timing):
    """Answer just in time not to be given up: after this `part` of the time for which the server waits.

    That is a round's deadline, or 1 + mu times the fastest worker's time of a code. So every round takes as long as it
    may, and nobody is late.
    """

    part: Annotated[float, Field(gt=0, le=1)] = 0.95
    limited = True

    def hold(self, watch: Watch) -> Steps:
        """Until then, less what the upload takes."""
        limit = yield from watch.limit()
        if limit is not None:
            spare = watch.began + int(self.part * (limit - watch.began)) - watch.uploading - watch.clock.now
            if spare > 0:
                yield spare


@dataclass(frozen=True)
class Stale(Timing):
    """Keep the answer until the server has taken so many `versions` of steps: as stale as still counts in full.

    A discount such as `hinge` has a grace, within which the stalest update counts like a new one. If the server does
    not come so far within `patience`, it answers then; that default is synthetic.
    """

    versions: Annotated[int, Field(ge=1)]
    patience: Annotated[Duration, Field(gt=0)] = 3_600_000_000
    stale = True

    def hold(self, watch: Watch) -> Steps:
        """Until then."""
        if watch.behind() < self.versions:
            yield watch.come(self.versions, self.patience)


@dataclass(frozen=True)
class Stalling:
    """Who takes time as it suits them, with all work that starts from version `since` or a later one."""

    who: frozenset[int]
    timing: Timing
    since: int = 0

    def of(self, client: int, version: int) -> Timing | None:
        """What this client does with its time now; None: nothing strange."""
        return self.timing if client in self.who and version >= self.since else None


@dataclass(frozen=True)
class OfServer:
    """What a client sees of its server; see `Watch`."""

    cell: Cell
    client: int
    version: int
    began: int

    @property
    def clock(self) -> Clock:
        """Everybody's."""
        return self.cell.clock

    @property
    def uploading(self) -> int:
        """Microseconds."""
        return self.cell.upload_time(self.client, self.version)

    def limit(self) -> Generator[Moment, None, int | None]:
        """The round's deadline."""
        yield from ()
        deadline = self.cell.aggregator.deadline
        return None if deadline is None else self.began + deadline

    def behind(self) -> int:
        """Versions since its own."""
        return self.cell.aggregator.version - self.version

    def come(self, versions: int, patience: int) -> Moment:
        """See `Watch`."""
        rank = FIRST_RANK + self.client
        awaited = self.version + versions, Moment(self.clock, rank)
        self.cell.waited_for.append(awaited)
        self.clock.call(patience, rank, lambda: self.cell.release(awaited))
        return awaited[1]


@dataclass(frozen=True)
class OfMaster:
    """What a worker sees of the master of a code; see `Watch`. There are no versions to wait for."""

    master: CodedSimulation
    worker: int
    uploading: int

    @property
    def clock(self) -> Clock:
        """Everybody's."""
        return self.master.clock

    @property
    def began(self) -> int:
        """When the round did."""
        return self.master.began

    def limit(self) -> Generator[Moment, None, int | None]:
        """Known when the fastest has answered."""
        if self.master.limit is None:
            moment = Moment(self.clock, FIRST_RANK + self.worker)
            self.master.lingering.append(moment)
            yield moment
        return self.master.limit

    def behind(self) -> int:
        """All begin a round at once."""
        return 0

    def come(self, versions: int, patience: int) -> Moment:
        """See `Watch`: nobody gets ahead of others, so that only patience ends it."""
        return Moment(self.clock, FIRST_RANK + self.worker).happen(patience)


TIMINGS: dict[str, Callable[..., Timing]] = {"pace": Pace, "linger": Linger, "stale": Stale}
