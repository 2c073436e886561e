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
from fedsim.network import Fluid, Routes
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
    """Puts the fluid network on the clock: transfers as steps of a process."""

    def __init__(self, clock: Clock, graph: nx.Graph):
        self.clock = clock
        self.graph = graph
        self.fluid = Fluid(graph)
        self.routes = Routes(graph)
        self.next_finish = inf
        """Seconds; when the fluid has something to deliver, as far as the clock has been told."""
        self.reached = 0.0
        self.settling = False

    @property
    def now(self) -> float:
        """Seconds; the fluid may be ahead of the clock by the half microsecond that the clock rounds off."""
        return max(self.clock.now / SECOND, self.reached)

    def carry(self, source: Hashable, target: Hashable, nbytes: int, rank: int) -> Steps:
        """The steps of sending so many bytes; they end when the last one has arrived.

        Raises:
            Cut: if the process is interrupted; it names the bytes that had passed by then.
        """
        path = self.routes.path(source, target)
        yield from self.clock.pause(round(self.fluid.latency(path) * SECOND), rank)
        flow = self.fluid.open(path, nbytes, self.now)
        flow.token = Moment(self.clock, rank)
        self._settle()
        try:
            yield flow.token
        except simpy.Interrupt:
            self._settle()
            raise Cut(round(self.fluid.close(flow, self.now))) from None

    def foresee(self, source: Hashable, target: Hashable, nbytes: int) -> int:
        """Microseconds that a transfer would take if it were alone."""
        path = self.routes.path(source, target)
        capacity = min(self.graph[here][there]["capacity"] for here, there in pairwise(path))
        return round((self.fluid.latency(path) + nbytes / capacity) * SECOND)

    def _settle(self) -> None:
        """At the end of this instant, when all that starts or stops now is known, ask when the next transfer ends."""
        if not self.settling:
            self.settling = True
            self.clock.call(0, SETTLEMENT, self._expect)

    def _expect(self) -> None:
        self.settling = False
        finish = self.fluid.next_finish
        if finish != self.next_finish:
            self.next_finish = finish
            if finish < inf:
                delay = max(0, round(finish * SECOND) - self.clock.now)
                self.clock.call(delay, DELIVERY, lambda: self._deliver(finish))

    def _deliver(self, finish: float) -> None:
        if finish != self.next_finish:
            return  # rates have changed since this was expected
        self.reached = max(self.now, finish)
        for flow in self.fluid.advance(self.reached):
            flow.token.happen()
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
