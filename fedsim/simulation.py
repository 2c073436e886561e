"""Virtual time: a clock, a network that shares its links, a fleet, an executor and a trace.

Time is priced from sizes and counts, never from values, and is an integer of microseconds.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import inf
from typing import Any

import networkx as nx
import simpy

from fedsim.fleet import Fleet
from fedsim.network import Flow, Fluid, Outages, Routes, Way, policy_of
from fedsim.trace import Trace
from fedsim.units import SECOND
from fedsim.work import Executor

Steps = Generator["int | Moment", None, Any]
"""What a process does: it yields the microseconds that it waits, or a moment that it waits for."""

URGENT, FIRST_RANK = 0, 2
"""What happens at one instant is taken in order: starts and cuts, clients by id, then what concerns everybody."""
DELIVERY, SETTLEMENT, CALENDAR, DEADLINE = range(2**40, 2**40 + 4)


class Cut(Exception):
    """A client's work ended before its time; so many bytes of the transfer under way had passed."""

    def __init__(self, nbytes: int = 0):
        self.nbytes = nbytes


class LinkDown(Cut):
    """A link on the way of a transfer is down."""


class Moment(simpy.Event):
    """A point in virtual time. Equal times are taken in the order of `rank`, whatever the order of insertion."""

    env: Clock
    _ok = True

    def __init__(self, clock: Clock, rank: int):
        self.env, self.rank, self.callbacks = clock, rank, []

    def happen(self, delay: int = 0) -> Moment:
        """Let it happen so many microseconds from now."""
        self._value = None
        self.env.schedule(self, self.rank, delay)  # type: ignore[arg-type]  # SimPy compares priorities as integers
        return self


class Process(Moment):
    """Somebody's steps in virtual time: one moment, which happens again at the end of every wait.

    It is a SimPy process that can wait for nobody else, and so one event is enough for its whole life.
    """

    def __init__(self, clock: Clock, rank: int, steps: Steps):
        super().__init__(clock, rank)
        self.steps = steps
        self.callbacks.append(self._go_on)
        clock.schedule(self, URGENT)  # type: ignore[arg-type]

    def _go_on(self, _: simpy.Event) -> None:
        try:
            wait = self.steps.send(None)
        except StopIteration:
            return
        if isinstance(wait, Moment):
            wait.callbacks.append(self._go_on)
        else:
            self.callbacks = [self._go_on]
            self.env.schedule(self, self.rank, wait)  # type: ignore[arg-type]

    def cut(self) -> None:
        """End it before anything else happens: `Cut` is raised where it waits. It may not wait again."""
        self.env.call(0, URGENT, self._end)

    def _end(self) -> None:
        with suppress(StopIteration):
            self.steps.throw(Cut())
            raise RuntimeError("a process that was cut waits again")


class Clock(simpy.Environment):
    """SimPy's environment, in microseconds."""

    @property
    def now(self) -> int:
        """Microseconds since the start."""
        return self._now  # type: ignore[return-value]  # whole numbers go in, so whole numbers come out

    def call(self, delay: int, rank: int, action: Callable[[], None]) -> None:
        """Do something so many microseconds from now."""
        Moment(self, rank).happen(delay).callbacks.append(lambda _: action())

    def start(self, steps: Steps, rank: int) -> Process:
        """Let somebody's steps begin as soon as what happens just now is over."""
        return Process(self, rank, steps)


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Look for cyclic garbage less often: a run makes next to none, and a large fleet is much to look through."""
    often = gc.get_threshold()
    gc.set_threshold(20 * often[0], *often[1:])
    try:
        yield
    finally:
        gc.set_threshold(*often)


class Carrier:
    """Puts the fluid network on the clock: transfers as steps of a process.

    A flow that nobody slows down knows its end when it starts, and waits for it. All others wait to be told: after
    every instant at which rates have changed, the clock is asked for the next end among them, or the next step of a
    capacity.

    Where a link is down a transfer waits (`stall`), or takes another way with what has not passed yet and pays that
    way's latency, or waits where there is none (`reroute`), or is cut (`fail`), as the graph says.
    """

    def __init__(self, clock: Clock, graph: nx.Graph):
        self.clock = clock
        self.fluid = Fluid(graph)
        self.routes = Routes(graph)
        self.outages = None if policy_of(graph) == "stall" else Outages(graph)
        if self.outages:
            clock.start(self._break_off(self.outages), DELIVERY)
        self.ways: dict[tuple[Hashable, Hashable], tuple[Way, int]] = {}
        self.untold = 0
        """How many flows do not know their end."""
        self.next_finish = inf
        """Seconds; the end or step that the clock has been asked for."""
        self.settling = False

    @property
    def now(self) -> float:
        """Seconds; the fluid may be ahead of the clock by the half microsecond that the clock rounds off."""
        return max(self.clock.now / SECOND, self.fluid.now)

    def way(self, source: Hashable, target: Hashable) -> tuple[Way, int]:
        """The best way between two nodes and its latency in microseconds."""
        known = self.ways.get((source, target))
        if known is None:
            way = self.fluid.way(self.routes.path(source, target))
            known = self.ways[source, target] = way, round(way.latency * SECOND)
        return known

    def open_way(self, source: Hashable, target: Hashable) -> Generator[int, None, tuple[Way, int]]:
        """The same, but on which nothing is down; it waits for one, or raises LinkDown, as the graph says."""
        usual = self.way(source, target)
        while self.outages and self.outages.broken(usual[0], self.now):
            if self.outages.policy == "fail":
                raise LinkDown
            if path := self.outages.path(source, target, self.now):
                way = self.fluid.way(path)
                return way, round(way.latency * SECOND)
            yield self._ticks(self.outages.next_change(self.now))
        return usual

    def foresee(self, source: Hashable, target: Hashable, nbytes: int) -> int:
        """Microseconds that a transfer would take if it were alone."""
        way, latency = self.way(source, target)
        return latency + round(nbytes / way.top_rate * SECOND)

    def carry(self, source: Hashable, target: Hashable, nbytes: int, rank: int, count: Callable[[int], None]) -> Steps:
        """The steps of sending so many bytes, until the last one has arrived; `count` is told how many have passed.

        Raises:
            Cut: if the process is cut, or a link is down; it names the bytes that had passed by then.
        """
        passed, flow = 0, None
        while flow is None:
            try:
                way, latency = (yield from self.open_way(source, target)) if self.outages else self.way(source, target)
                if latency:
                    yield latency
                flow = self.fluid.open(way, nbytes - passed, self.now)
                yield self._end_of(flow, rank)
                while not self._has_ended(flow):
                    yield self._end_of(flow, rank)
            except Cut as cut:
                if flow is not None:
                    passed += self._stop(flow, count)
                    flow = None
                cut.nbytes = passed
                if not (isinstance(cut, LinkDown) and self.outages and self.outages.policy == "reroute"):
                    raise
        count(nbytes - passed)

    def _stop(self, flow: Flow, count: Callable[[int], None]) -> int:
        """End a flow before its time; the bytes that it has carried."""
        self.untold -= flow.token is not None
        passed = round(self.fluid.close(flow, self.now))
        count(passed)
        self._settle()
        return passed

    def _end_of(self, flow: Flow, rank: int) -> int | Moment:
        """What a flow waits for; its end may have moved when that happens. LinkDown if it is not to wait."""
        if self.outages and self.outages.concern(flow.way):
            if self.outages.broken(flow.way, self.now):
                raise LinkDown
        elif self.fluid.unhindered(flow):
            return self._ticks(flow.shared_finish)
        flow.token = Moment(self.clock, rank)
        self.untold += 1
        self._settle()
        return flow.token

    def _has_ended(self, flow: Flow) -> bool:
        """Whether a flow that waited for its end is there."""
        if self.fluid.complete(flow, max(self.now, flow.shared_finish)):
            return True
        finish = flow.finish
        if finish == inf or self._ticks(finish) > 0:
            return False
        self._advance(finish)  # where that frees a link for others, the next end asked for is this one
        return flow.finish <= self.fluid.now  # else a capacity has changed before

    def _ticks(self, time: float) -> int:
        """Microseconds from now until a time of the fluid."""
        return max(0, round(time * SECOND) - self.clock.now)

    def _advance(self, time: float) -> None:
        for flow in self.fluid.advance(max(self.now, time)):
            self._tell(flow)

    def _tell(self, flow: Flow) -> None:
        """Wake its owner, if that waits to be told."""
        if flow.token:
            flow.token.happen()
            flow.token = None
            self.untold -= 1

    def _break_off(self, outages: Outages) -> Steps:
        """Whoever sends over a link that fails is told."""
        for time in outages.changes:
            yield self._ticks(time)
            for flow in [flow for flow in self.fluid.under_way if outages.broken(flow.way, self.now)]:
                self._tell(flow)

    def _settle(self) -> None:
        """At the end of this instant, when all that starts or stops now is known, ask for the next end."""
        if self.untold and not self.settling:
            self.settling = True
            self.clock.call(0, SETTLEMENT, self._expect)

    def _expect(self) -> None:
        self.settling = False
        finish = self.fluid.next_event if self.untold else inf
        if finish != self.next_finish:
            self.next_finish = finish
            if finish < inf:
                self.clock.call(self._ticks(finish), DELIVERY, lambda: self._deliver(finish))

    def _deliver(self, finish: float) -> None:
        if finish == self.next_finish:  # else rates have changed since this was expected
            self.next_finish = inf
            self._advance(finish)
            self._expect()


@dataclass
class Simulation:
    """What server and peer algorithms are simulated on."""

    fleet: Fleet
    graph: nx.Graph
    executor: Executor
    trace: Trace

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.carrier = Carrier(self.clock, self.graph)
