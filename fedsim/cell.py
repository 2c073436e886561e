"""A server and the clients around it, in virtual time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from fedsim.carrier import Carrier
from fedsim.clock import DEADLINE, FIRST_RANK, Cut, Failure, LinkDown, Moment, Process, Steps
from fedsim.downlink import Downlink
from fedsim.faults import Asked
from fedsim.fleet import Fate, Fleet
from fedsim.progress import Progress
from fedsim.simulation import Simulation
from fedsim.stalling import OfServer
from fedsim.trace import ARRIVE, JOIN, KINDS, LEAVE, LOST, START, TRAIN, UNASKED, UPLOAD, VERSION
from fedsim.work import Deferred, Kept, LocalTask, Release, Update
from fedsim.workload import Workload

if TYPE_CHECKING:
    from fedsim.aggregators.aggregator import Aggregator

SERVER = "server"


def failing(fate: Fate, duration: int, nbytes: int, transfer: Callable[[int], Steps]) -> Steps:
    """What a client still does before it fails: of a training of this duration, and of a transfer of so many bytes."""
    share = {"download": 0.0, "before": 0.0, "during": fate.fraction, "after": 1.0, "upload": 1.0}[fate.phase]
    if worked := round(duration * share):
        yield worked
    sent = int(nbytes * fate.fraction) if fate.phase in ("download", "upload") else 0
    if sent:
        yield from transfer(sent)
    raise Failure(sent)


def round_trip(client: int, fleet: Fleet, work: Workload, carrier: Carrier) -> int:
    """Microseconds from starting a client at first to hearing of it, if nothing slows it down."""
    training = fleet.devices[client].training_time(work.seen[client], work.flops)
    return (
        carrier.foresee(SERVER, client, work.down) + training + carrier.foresee(client, SERVER, work.up_at(client, 0))
    )


@dataclass
class Cell:
    """One server algorithm and its clients: who is asked, who answers when, who fails, what that costs."""

    world: Simulation
    aggregator: Aggregator
    work: Workload
    progress: Progress
    place: Hashable = SERVER
    """Where the server stands in the network."""
    name: int = -1
    """What it is called in the trace, where clients have their numbers."""
    here: set[int] = field(default_factory=set, init=False)
    jobs: dict[int, Process] = field(default_factory=dict, init=False)
    """Who is at work."""
    broken: set[int] = field(default_factory=set, init=False)
    """Who has failed, or could not be reached, and is not well yet."""
    phases: dict[int, str] = field(default_factory=dict, init=False)
    """How far they are: at `download`, `train` or `upload`."""
    requests: Counter[int] = field(default_factory=Counter, init=False)
    """How often each client was asked."""
    ordinals: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int), init=False)
    kept: dict[int, Kept] = field(default_factory=dict, init=False)
    """What each client's last training has left with it; one that was cut short leaves nothing."""
    uploads: dict[tuple[int, int], int] = field(default_factory=dict, init=False)
    version: int = field(default=0, init=False)
    """The last one that was told of."""
    armed: int = field(default=0, init=False)
    """The aggregator's round that has its deadline set."""
    waited_for: list[tuple[int, Moment]] = field(default_factory=list, init=False)
    """Versions that clients keep their answers for."""
    changing: ClassVar[tuple[str, ...]] = ("world", "aggregator", "kept")

    def __post_init__(self) -> None:
        self.clock, self.trace, self.fleet = self.world.clock, self.world.trace, self.world.fleet
        self.downlink = Downlink(self.work.down, self.work.step, self.work.catch_up)
        drift = self.aggregator.drift
        self.keeps = self.world.keeps or (drift is not None and drift.keeps)

    # The server -----------------------------------------------------------------------------------------------------

    def act(self, started: Iterable[int]) -> None:
        """After every word to the aggregator: note what it refused, note its step, start whom it names."""
        aggregator = self.aggregator
        for client, version, fault in aggregator.refused:
            self.trace.add(self.clock.now, KINDS.index(fault), client, version)
        aggregator.refused.clear()
        if aggregator.version != self.version:
            self.version = aggregator.version
            self.trace.add(self.clock.now, VERSION, self.name, self.version)
            self.stepped()
        self.start(started)

    def stepped(self) -> None:
        """The server has taken a step."""
        self.progress.stepped(self.version, self.clock.now)
        for awaited in [awaited for awaited in self.waited_for if awaited[0] <= self.version]:
            self.release(awaited)

    def release(self, awaited: tuple[int, Moment]) -> None:
        """Whoever waits for this version waits no longer."""
        if awaited in self.waited_for:
            self.waited_for.remove(awaited)
            awaited[1].happen()

    def start(self, clients: Iterable[int]) -> None:
        """Start them, and set the aggregator's deadline."""
        aggregator = self.aggregator
        release = self.world.holders.add(Release(aggregator.version, aggregator.params, aggregator.sent))
        for client in clients:
            self.phases[client] = "download"
            self.requests[client] += 1
            self.jobs[client] = self.clock.start(self.job(client, release), FIRST_RANK + client)
        if aggregator.deadline is not None and aggregator.round != self.armed:
            self.armed = aggregator.round
            self.clock.call(aggregator.deadline, DEADLINE, lambda armed=self.armed: self.expire(armed))

    def expire(self, expired: int) -> None:
        """A deadline has passed; it means nothing if its round is over."""
        if expired == self.aggregator.round:
            self.act(self.aggregator.expire())

    def come(self, clients: list[int]) -> None:
        """Clients have become available; who is still broken is asked when that is over."""
        self.here.update(clients)
        for client in clients:
            self.trace.add(self.clock.now, JOIN, client, self.aggregator.version)
        self.act(self.aggregator.join([client for client in clients if client not in self.broken]))

    def go(self, clients: list[int]) -> None:
        """Clients have gone away, whatever they were doing."""
        self.here.difference_update(clients)
        for client in clients:
            self.trace.add(self.clock.now, LEAVE, client, self.aggregator.version)
            if client in self.jobs:
                self.jobs.pop(client).cut()
        self.act(self.aggregator.leave(clients))

    def recover(self, client: int) -> None:
        """A client that failed is well again, and can be asked if it has not gone away meanwhile."""
        self.broken.remove(client)
        if client in self.here:
            self.act(self.aggregator.join([client]))

    # A client -------------------------------------------------------------------------------------------------------

    def job(self, client: int, release: Release) -> Steps:
        """What a started client does: download, train, upload; or fail on the way."""
        began, version = self.clock.now, release.version
        self.trace.add(began, START, client, version)
        try:
            pending = yield from self.local(client, release)
            yield from self.respond(client, version, began)
        except Cut as cut:
            self.lose(client, version, cut)
        else:
            self.arrive(self.arrived(client, version, began, pending))

    def local(self, client: int, release: Release) -> Generator[int | Moment, None, Deferred]:
        """Download the model and train; what training will yield."""
        began, version = self.clock.now, release.version
        nbytes = self.downlink.nbytes(client, version)
        if fate := self.world.faults.fate(client, self.requests[client], "download"):
            yield from failing(fate, 0, nbytes, lambda nbytes: self.download(client, nbytes))
        yield from self.download(client, nbytes)
        self.downlink.has(client, version)
        self.phases[client] = "train"
        self.trace.add(self.clock.now, TRAIN, client, version, nbytes)
        pending = yield from self.train(client, release)
        if timing := self.world.timing(client, version):
            yield from timing.hold(OfServer(self, client, version, began))
        self.phases[client] = "upload"
        self.trace.add(self.clock.now, UPLOAD, client, version)
        return pending

    def respond(self, client: int, version: int, began: int) -> Steps:
        """Upload what there is to say. On its way that may be held up, or come again."""
        faults, asked = self.world.faults, Asked(client, self.requests[client], began, self.clock.now)
        nbytes = self.work.up_at(client, version)
        if late := faults.delay(asked):
            yield late
        if fate := faults.fate(client, asked.number, "upload"):
            yield from failing(fate, 0, nbytes, lambda nbytes: self.upload(client, nbytes))
        yield from self.upload(client, nbytes)
        for _ in range(faults.copies(replace(asked, now=self.clock.now))):
            self.clock.start(self.copy(client, version), FIRST_RANK + client)

    def copy(self, client: int, version: int) -> Steps:
        """An answer comes again, and the server knows it; it counts for nothing if it does not come through."""
        nbytes, (here, there) = self.work.up_at(client, version), (self.whereabouts(client), self.place)
        with suppress(Cut):
            yield from self.world.carrier.carry(here, there, nbytes, FIRST_RANK + client, lambda nbytes: None)
            self.progress.uploaded(nbytes)
            self.trace.add(self.clock.now, UNASKED, client, version, nbytes)

    def arrived(self, client: int, version: int, began: int, pending: Deferred) -> Update:
        """What has just been uploaded by a client that was started at `began`."""
        pending.arrived = True
        self.progress.heard(self.clock.now, pending)
        held, steps = self.work.held[client], self.work.steps_at(client, version)
        return Update(client, version, held, steps, self.clock.now - began, pending)

    def task(self, client: int, release: Release, ordinal: int = 0) -> LocalTask:
        """A client's n-th local training."""
        version = release.version
        steps = self.work.steps_at(client, version)
        return LocalTask(client, release.params, ordinal, steps, release.sent, version=version)

    def train(self, client: int, release: Release) -> Generator[int | Moment, None, Deferred]:
        """Let the time of local training pass. The numbers are promised only if the client will not fail."""
        ordinal, version = self.ordinals[client], release.version
        self.ordinals[client] += 1
        seen, flops = self.work.seen_at(client, version), self.work.flops
        duration = self.world.training_time(client, version, ordinal, seen, flops)
        fate = self.fleet.fate(client, ordinal) or self.world.faults.fate(client, self.requests[client], "train")
        if fate is not None:
            nbytes = self.work.up_at(client, version)
            yield from failing(fate, duration, nbytes, lambda nbytes: self.upload(client, nbytes))
        due = self.clock.now + duration + self.upload_time(client, version)
        pending = self.world.promise(self.task(client, release, ordinal), due, self.kept.get(client))
        yield duration
        if self.keeps:
            self.kept[client] = pending.keep()
        return pending

    def upload_time(self, client: int, version: int) -> int:
        """Microseconds that the upload of a client that starts from this version takes if nobody shares its way."""
        nbytes = self.work.up_at(client, version)
        if (client, nbytes) not in self.uploads:
            self.uploads[client, nbytes] = self.world.carrier.foresee(self.whereabouts(client), self.place, nbytes)
        return self.uploads[client, nbytes]

    def download(self, client: int, nbytes: int) -> Steps:
        """From server to client."""
        carrier, count = self.world.carrier, self.progress.downloaded
        return carrier.carry(self.place, self.whereabouts(client), nbytes, FIRST_RANK + client, count)

    def upload(self, client: int, nbytes: int) -> Steps:
        """From client to server."""
        carrier, count = self.world.carrier, self.progress.uploaded
        return carrier.carry(self.whereabouts(client), self.place, nbytes, FIRST_RANK + client, count)

    def whereabouts(self, client: int) -> Hashable:
        """Where a client stands in the network."""
        return client

    def arrive(self, update: Update) -> None:
        """The server hears of a client."""
        del self.jobs[update.client]
        staleness = self.aggregator.version - update.version
        nbytes = self.work.up_at(update.client, update.version)
        self.trace.add(self.clock.now, ARRIVE, update.client, update.version, nbytes, staleness)
        self.progress.arrived(staleness)
        self.act(self.aggregator.receive(update))

    def lose(self, client: int, version: int, cut: Cut) -> None:
        """A client's work has come to nothing. One that failed, or whose link did, can be asked again after a while."""
        self.trace.add(self.clock.now, LOST, client, version, cut.nbytes)
        self.progress.failed()
        if isinstance(cut, Failure | LinkDown):
            del self.jobs[client]
            self.broken.add(client)
            self.act(self.aggregator.leave([client]))
            self.clock.call(self.fleet.failures.recovery, FIRST_RANK + client, lambda: self.recover(client))
