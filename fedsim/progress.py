"""How far a run has come: counters, the rows of the metrics table, and when to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import Field

from fedsim.errors import Stalled
from fedsim.probed import Probed
from fedsim.units import FOREVER, SECOND, Duration, Probability
from fedsim.work import Deferred, Measured

Count = Annotated[int, Field(ge=1)]
Row = dict[str, float]


class Model(Protocol):
    """What is measured: a server's model, or those of peers."""

    @property
    def version(self) -> int:
        """How many steps have made it."""
        ...

    @property
    def params(self) -> Any:
        """What `Progress.evaluate` takes."""
        ...


IN_VAIN = 10_000
"""So many local trainings, plus a hundred a client, without one server step mean that none will come."""


@dataclass(frozen=True)
class Until:
    """When a run ends: at whichever limit is reached first. Versions, updates and time are known without training."""

    versions: Count | None = None
    updates: Count | None = None
    time: Duration | None = None
    accuracy: Probability | None = None

    def __post_init__(self) -> None:
        if self.versions is None and self.updates is None and self.time is None:
            raise ValueError(
                "needs versions, updates or time, so that the run ends even if the accuracy is never reached"
            )

    def share(self, progress: Progress, now: int) -> float:
        """How much of the run is done, in [0, 1], judged by the limit that is nearest."""
        pairs = ((progress.version, self.versions), (progress.updates, self.updates), (now, self.time))
        return min(1.0, max(done / limit for done, limit in pairs if limit))


@dataclass
class Progress:
    """Counts what happens and measures the model at fixed virtual times."""

    until: Until
    every: int
    """Microseconds between measurements."""
    evaluate: Callable[[Any], Measured] = lambda params: Measured()
    """How good the model is; the same object again if it has not changed."""
    record: Callable[[Progress], None] = lambda progress: None
    """Told whenever a row is added."""
    watch: Callable[[Progress, int], None] = lambda progress, now: None
    """Told the virtual time whenever something worth showing has happened."""
    look: Callable[[Progress], None] = lambda progress: None
    """Told before anything else happens, and thus at a time at which nothing is half done."""
    patience: int = IN_VAIN
    version: int = 0
    updates: int = 0
    lost: int = 0
    down: int = 0
    up: int = 0
    turns: int = 0
    """How many things have happened: events, and measurements between them."""
    over: bool = False
    rows: list[Row] = field(default_factory=list)
    clients: list[dict[str, Any]] = field(default_factory=list)
    """For each model measured its time, its version and the table of its clients, by column."""
    probed: Probed | None = None
    """What probes see inside local trainings; None: there are none."""
    _measured: Measured | None = None
    _staleness: int = 0
    _since_row: int = 0
    _since_step: int = 0
    tallies: dict[str, float] = field(default_factory=dict)
    """What else is counted, by column."""
    horizon: int = 0
    """Nothing later than this may happen before the next measurement."""
    changing: ClassVar[tuple[str, ...]] = ("rows", "clients", "probed", "tallies", "evaluate", "_measured")

    def turned(self) -> None:
        """Something is going to happen."""
        self.look(self)
        self.turns += 1

    def heard(self, now: int, pending: Deferred) -> None:
        """A local training has answered."""
        if self.probed is not None:
            self.probed.hear(now, pending)

    def arrived(self, staleness: int) -> None:
        """An update was heard."""
        self.updates += 1
        self._since_row += 1
        self._staleness += staleness
        self.over |= self.updates == self.until.updates
        self._tried()

    def failed(self) -> None:
        """A local training was lost."""
        self.lost += 1
        self._tried()

    def _tried(self) -> None:
        self._since_step += 1
        if self._since_step > self.patience:
            raise Stalled(
                f"the last {self._since_step} local trainings led to no server step (heard {self.updates}, "
                f"lost {self.lost} in all): see drop, deadline, goal and availability"
            )

    def stepped(self, version: int, now: int) -> None:
        """The server took a step."""
        self.version = version
        self._since_step = 0
        self._settle()
        self.over |= version == self.until.versions
        self.watch(self, now)

    def downloaded(self, nbytes: int) -> None:
        """So many bytes have come from the server."""
        self.down += nbytes

    def uploaded(self, nbytes: int) -> None:
        """So many bytes have gone to the server."""
        self.up += nbytes

    def measure(self, model: Model, upcoming: float) -> None:
        """Nothing happens before `upcoming`: measure at the horizon, and pass over the silent time until then."""
        now = self.horizon
        self.over |= now == self.until.time
        self.row(model, now)
        self.horizon += self.every
        self.pass_over(upcoming)

    def pass_over(self, upcoming: float) -> None:
        """Nothing happens before `upcoming`, so until then there is nothing new to measure."""
        following = -int(-min(upcoming, FOREVER) // self.every) * self.every
        self.horizon = min(max(self.horizon, following), self.until.time or FOREVER)

    def finish(self, model: Model, now: int) -> None:
        """The last row, unless it is there already."""
        self._settle()
        if self.rows[-1]["time_s"] < now / SECOND:
            self.row(model, now)

    def row(self, model: Model, now: int) -> None:
        """One more row; a table of the clients only where they were measured anew."""
        counts, measured = self._counts(now), self.evaluate(model.params)
        if measured.clients and measured is not self._measured:
            self.clients.append({"time_s": counts["time_s"], "version": counts["version"], **measured.clients})
        self.rows.append({**counts, **measured.metrics})
        self._measured = measured
        self._staleness = self._since_row = 0
        self.over |= self.until.accuracy is not None and measured.metrics.get("accuracy", 0.0) >= self.until.accuracy
        self.record(self)
        self.watch(self, now)

    def _settle(self) -> None:
        if self.probed is not None:
            self.probed.settle()

    def _counts(self, now: int) -> Row:
        mean = self._staleness / self._since_row if self._since_row else 0.0
        return {
            "time_s": now / SECOND, "version": self.version, "updates": self.updates, "lost": self.lost,
            "bytes_down": self.down, "bytes_up": self.up, "staleness": mean, **self.tallies,
        }  # fmt: skip
