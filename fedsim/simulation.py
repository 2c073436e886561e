"""Virtual time: a clock, a network that shares its links, a fleet, an executor and a trace.

Time is priced from sizes and counts, never from values, and is an integer of microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

import networkx as nx
import simpy

from fedsim.fleet import Fleet
from fedsim.network import Flow, Fluid, Routes
from fedsim.trace import Trace
from fedsim.units import SECOND
from fedsim.work import Executor

Steps = Generator[simpy.Event, Any, Any]

FIRST_RANK = 2
"""What happens at one instant is taken in order: SimPy's own (0 and 1), clients by id, then what concerns everybody."""
DELIVERY, SETTLEMENT, CALENDAR, DEADLINE = range(2**40, 2**40 + 4)


class Cut(Exception):
    """A client's work ended before its time; so many bytes of the transfer under way had passed."""

    def __init__(self, nbytes: int = 0):
        self.nbytes = nbytes


class Moment(simpy.Event):
    """A point in virtual time. Equal times are taken in the order of `rank`, whatever the order of insertion."""

    def __init__(self, clock: simpy.Environment, rank: int):
        super().__init__(clock)
        self.rank = rank

    def happen(self, delay: int = 0) -> Moment:
        """Let it happen so many microseconds from now."""
        self._ok = True
        self._value = None
        self.env.schedule(self, self.rank, delay)  # type: ignore[arg-type]  # SimPy compares priorities as integers
        return self


class Clock(simpy.Environment):
    """SimPy's environment, in microseconds."""

    @property
    def now(self) -> int:
        """Microseconds since the start."""
        return self._now  # type: ignore[return-value]  # whole numbers go in, so whole numbers come out

    def call(self, delay: int, rank: int, action: Callable[[], None]) -> None:
        """Do something so many microseconds from now."""
        Moment(self, rank).happen(delay).callbacks.append(lambda _: action())

    def pause(self, delay: int, rank: int) -> Steps:
        """The steps of waiting for so many microseconds; none if there are none.

        Raises:
            Cut: if the process is interrupted.
        """
        if delay > 0:
            try:
                yield Moment(self, rank).happen(delay)
            except simpy.Interrupt:
                raise Cut from None


class Carrier:
    """Puts the fluid network on the clock: transfers as steps of a process.

    A flow that nobody slows down knows its end when it starts, and waits for it. All others wait to be told: after
    every instant at which rates have changed, the clock is asked for the next end among them.
    """

    def __init__(self, clock: Clock, graph: nx.Graph):
        self.clock = clock
        self.graph = graph
        self.fluid = Fluid(graph)
        self.routes = Routes(graph)
        self.ways: dict[tuple[Hashable, Hashable], tuple[tuple[Hashable, ...], int]] = {}
        self.untold = 0
        """How many flows do not know their end."""
        self.next_finish = inf
        """Seconds; the end that the clock has been asked for."""
        self.settling = False

    @property
    def now(self) -> float:
        """Seconds; the fluid may be ahead of the clock by the half microsecond that the clock rounds off."""
        return max(self.clock.now / SECOND, self.fluid.now)

    def way(self, source: Hashable, target: Hashable) -> tuple[tuple[Hashable, ...], int]:
        """The path between two nodes and its latency in microseconds."""
        known = self.ways.get((source, target))
        if known is None:
            path = self.routes.path(source, target)
            known = self.ways[source, target] = path, round(self.fluid.latency(path) * SECOND)
        return known

    def foresee(self, source: Hashable, target: Hashable, nbytes: int) -> int:
        """Microseconds that a transfer would take if it were alone."""
        path, latency = self.way(source, target)
        capacity = min(self.graph[here][there]["capacity"] for here, there in pairwise(path))
        return latency + round(nbytes / capacity * SECOND)

    def carry(self, source: Hashable, target: Hashable, nbytes: int, rank: int) -> Steps:
        """The steps of sending so many bytes; they end when the last one has arrived.

        Raises:
            Cut: if the process is interrupted; it names the bytes that had passed by then.
        """
        path, latency = self.way(source, target)
        yield from self.clock.pause(latency, rank)
        flow = self.fluid.open(path, nbytes, self.now)
        moment = self._end_of(flow, rank)
        try:
            yield moment
            while not self._has_ended(flow):
                moment = self._end_of(flow, rank)
                yield moment
        except simpy.Interrupt:
            self.untold -= not moment.triggered
            carried = self.fluid.close(flow, self.now)
            self._settle()
            raise Cut(round(carried)) from None

    def _end_of(self, flow: Flow, rank: int) -> Moment:
        """What a flow waits for; its end may have moved when that happens."""
        flow.token = moment = Moment(self.clock, rank)
        if self.fluid.settled and flow.shared_rate == flow.top_rate:  # it can only get slower
            return moment.happen(self._ticks(flow.finish))
        self.untold += 1
        self._settle()
        return moment

    def _has_ended(self, flow: Flow) -> bool:
        """Whether a flow that waited for its end is there."""
        if self._ticks(flow.finish) > 0:
            return False
        self._advance(flow.finish)  # where that frees a link for others, the next end asked for is this one
        return True

    def _ticks(self, time: float) -> int:
        """Microseconds from now until a time of the fluid."""
        return max(0, round(time * SECOND) - self.clock.now)

    def _advance(self, time: float) -> None:
        for flow in self.fluid.advance(max(self.now, time)):
            if not flow.token.triggered:
                self.untold -= 1
                flow.token.happen()

    def _settle(self) -> None:
        """At the end of this instant, when all that starts or stops now is known, ask for the next end."""
        if self.untold and not self.settling:
            self.settling = True
            self.clock.call(0, SETTLEMENT, self._expect)

    def _expect(self) -> None:
        self.settling = False
        finish = self.fluid.next_finish if self.untold else inf
        if finish != self.next_finish:
            self.next_finish = finish
            if finish < inf:
                self.clock.call(self._ticks(finish), DELIVERY, lambda: self._deliver(finish))

    def _deliver(self, finish: float) -> None:
        if finish == self.next_finish:  # else rates have changed since this was expected
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
