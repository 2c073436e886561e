"""The network on the clock: transfers as steps of a process, priced from their sizes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from math import inf

import networkx as nx

from fedsim.clock import DELIVERY, SETTLEMENT, Clock, Cut, LinkDown, Moment, Steps
from fedsim.network import Flow, Fluid, Outages, Routes, Way, policy_of
from fedsim.units import SECOND


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
