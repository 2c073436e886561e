"""A SuperNode in virtual time: works off messages one by one on a device of the fleet, and may fail to."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Error, Message

from fedsim.cell import SERVER, failing
from fedsim.clock import DEADLINE, FIRST_RANK, Cut, Failure, LinkDown, Process, Steps
from fedsim.flower.addressed import addressed
from fedsim.flower.internals import ErrorCode, call_it
from fedsim.flower.parcel import Parcel
from fedsim.flower.watch import worn
from fedsim.trace import JOIN, LEAVE, LOST, START, TRAIN, UPLOAD
from fedsim.units import SECOND

if TYPE_CHECKING:
    from fedsim.flower.superlink import Errand, SuperLink


@dataclass
class Nap:
    """The watch of a client at work: what it sleeps is added to its time."""

    now: int
    slept: int = 0

    def sleep(self, ticks: int) -> None:
        """So many microseconds."""
        self.now += ticks
        self.slept += ticks


@dataclass(eq=False)
class SuperNode:
    """A client of the fleet, with what its app keeps from one message to the next."""

    link: SuperLink
    number: int
    context: Context
    waiting: deque[Errand] = field(default_factory=deque)
    process: Process | None = None
    """What it works at."""
    ordinal: int = 0
    """How many messages it has begun to compute."""
    here: bool = False
    broken: bool = False
    last_seen: int | None = None
    """Since when it is not here; None: it is, or was never."""

    def __post_init__(self) -> None:
        self.clock, self.trace, self.fleet = self.link.clock, self.link.trace, self.link.fleet
        self.rank = FIRST_RANK + self.number

    @property
    def online(self) -> bool:
        """As far as a SuperLink knows: it is here, or it has not yet been noticed that it is not."""
        return self.here or (self.last_seen is not None and self.clock.now < self.last_seen + self.link.terms.heartbeat)

    def take(self, errand: Errand) -> None:
        """Another message to work off; one to a node that is gone is answered at once."""
        if self.online:
            self.waiting.append(errand)
            self.next()
        else:
            self.link.answer(errand, ErrorCode.NODE_UNAVAILABLE)

    def come(self) -> None:
        """It is there, and goes on with what waits for it."""
        self.here, self.last_seen = True, None
        self.trace.add(self.clock.now, JOIN, self.number, self.link.version)
        self.next()

    def go(self) -> None:
        """It has gone away, whatever it was doing."""
        self.here, self.last_seen = False, self.clock.now
        self.trace.add(self.clock.now, LEAVE, self.number, self.link.version)
        if self.process is not None:
            self.process.cut()
        self.clock.call(self.link.terms.heartbeat, DEADLINE, self.miss)

    def miss(self) -> None:
        """If it is still away, what waits for it is given up."""
        while self.waiting and not self.online:
            self.link.answer(self.waiting.popleft(), ErrorCode.NODE_UNAVAILABLE)

    def recover(self) -> None:
        """It had failed, and is well again."""
        self.broken = False
        self.next()

    def next(self) -> None:
        """Begin with the next message, if it is there and idle."""
        if self.here and not self.broken and self.process is None and self.waiting:
            errand = self.waiting.popleft()
            self.process = self.clock.start(self.work(errand), self.rank)

    def work(self, errand: Errand) -> Steps:
        """Download, compute, upload; or come to nothing on the way."""
        carrier, nbytes, version = self.link.carrier, errand.parcel.nbytes, errand.version
        self.trace.add(self.clock.now, START, self.number, version)
        try:
            yield from carrier.carry(SERVER, self.number, nbytes, self.rank, self.link.progress.downloaded)
            self.trace.add(self.clock.now, TRAIN, self.number, version, nbytes)
            reply = yield from self.compute(errand)
            self.trace.add(self.clock.now, UPLOAD, self.number, version)
            yield from self.upload(reply.nbytes)
        except Cut as cut:
            self.lose(errand, cut)
        else:
            self.link.arrive(errand, reply)
        self.process = None
        self.next()

    def upload(self, nbytes: int) -> Steps:
        """To the server."""
        return self.link.carrier.carry(self.number, SERVER, nbytes, self.rank, self.link.progress.uploaded)

    def compute(self, errand: Errand) -> Generator[Any, None, Parcel]:
        """Run the app, then let the time pass that this takes on the node's device; the reply.

        What it has written into its memory counts only when that time is over.
        """
        ordinal, self.ordinal = self.ordinal, self.ordinal + 1
        fate = self.fleet.fate(self.number, ordinal)
        if fate is not None and fate.phase == "before":
            raise Failure
        context, nap = self.forked(), Nap(self.clock.now)
        reply = self.execute(errand.parcel.opened(), context, nap, ordinal)
        duration = nap.slept + self.duration(ordinal, errand.parcel.kind, reply)
        reply.metadata.created_at = self.link.timestamp + duration / SECOND
        reply.metadata.ttl = max(0.0, (errand.expires - self.clock.now - duration) / SECOND)
        call_it(reply, sha256(errand.name.encode()).hexdigest())
        parcel = Parcel.of(reply)
        if fate is not None:
            yield from failing(fate, duration, parcel.nbytes, self.upload)
        yield duration
        self.context = context
        return parcel

    def forked(self) -> Context:
        """What an app is given: the node's memory, in a copy that can be thrown away."""
        own = self.context
        return Context(own.run_id, own.node_id, dict(own.node_config), deepcopy(own.state), dict(own.run_config))

    def execute(self, message: Message, context: Context, nap: Nap, ordinal: int) -> Message:
        """What the ClientApp replies; an exception is a reply too, as in Flower."""
        try:
            with worn(nap), addressed(self.fleet.seed, "client", self.number, ordinal):
                reply = self.link.client_app(message, context)
            if not isinstance(reply, Message):
                raise TypeError(f"expected a Message from the ClientApp, not {reply!r}")
        except Exception as error:  # apps raise all kinds
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        return reply

    def duration(self, ordinal: int, kind: str, reply: Message) -> int:
        """Microseconds, at least 1, that the app's work takes on this device."""
        terms = self.link.terms
        seen = 0 if reply.has_error() else terms.seen(kind, reply.content, self.context.run_config)
        return self.fleet.training_time(self.number, ordinal, seen, terms.flops or 0.0) if seen else 1

    def lose(self, errand: Errand, cut: Cut) -> None:
        """What it did has come to nothing; it takes a while until that is noticed, and perhaps until it is well."""
        self.trace.add(self.clock.now, LOST, self.number, errand.version, cut.nbytes)
        self.link.progress.failed()
        code = ErrorCode.CLIENT_APP_CRASHED if isinstance(cut, Failure) else ErrorCode.NODE_UNAVAILABLE
        self.clock.call(self.link.terms.heartbeat, DEADLINE, lambda: self.link.answer(errand, code))
        if isinstance(cut, Failure | LinkDown):
            self.broken = True
            self.clock.call(self.fleet.failures.recovery, self.rank, self.recover)
