"""Transfers as fluids: whoever shares a link shares it max-min fairly.

A rate changes only when a flow starts or ends, or when the capacity of a link takes a step. `Fluid` is a state machine
without a clock of its own: it is told the time and answers when the next flow will finish. Seven things make it quick
and leave it exact:

* A link whose flows could not fill it even at their top rates never binds, so its flows do not touch one another. The
  other links are *tight*. Flows that tight links connect form a *pool*, and a change is felt in its own pool only.
* A change has a *level*: were all rates to rise together, it would not be felt before. Slower flows stay as they are,
  and only the faster ones are looked at; see `_felt_level`.
* Capacities are counted in integers (a float is a whole number over a power of two): sums neither drift nor depend on
  their order.
* Only the first finish of each pool has a place in the heap. A pool whose flows have gone to newer pools is looked
  through again when that place comes to the top.
* Rates are worked out when somebody asks, so whatever starts or ends at one instant is shared out once.
* A flow that touches nobody needs no place in the heap either, if its owner knows the finish and comes back for it.
* A link that varies is asked for its capacity while it has flows, and no more.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from math import fsum, inf
from operator import attrgetter

import networkx as nx

from fedsim.network.links import Links
from fedsim.network.sharing import Flow, Link, Way, fair_rates, full_level, pool_around

LARGEST = sys.float_info.max
"""The largest finite number."""
FINISH = attrgetter("shared_finish")


class Fluid:
    """All transfers under way on one graph.

    Each edge carries `capacity` in bytes per second (may be infinite, or `Varying`) and `latency` in seconds. An
    undirected edge is one capacity that both directions share; an edge of a DiGraph is the capacity of one direction.
    The graph must not change afterwards. Times are seconds and never decrease. A flow over a link whose capacity is 0
    waits. ValueError names an edge that is not fit for use.

    >>> graph = nx.Graph()
    >>> graph.add_edge("a", "b", capacity=10.0, latency=0.5)
    >>> fluid = Fluid(graph)
    >>> long, short = fluid.open(["a", "b"], 100, now=0.0), fluid.open(["b", "a"], 20, now=0.0)
    >>> short.rate, fluid.next_finish
    (5.0, 4.0)
    >>> fluid.advance(now=5.0) == [short], long.finish
    (True, 12.0)
    """

    def __init__(self, graph: nx.Graph) -> None:
        self._links = Links(graph)
        self._fresh: set[Flow] = set()  # under way at their top rates, and nobody has asked who finishes next
        self._flows: set[Flow] = set()  # all others
        self._finishes: list[tuple[float, int, Flow, list[Flow]]] = []  # the first of each pool
        self._pools = 0
        self._steps: list[tuple[float, int, Link]] = []  # when capacities may change next
        self._turns = 0
        self._changed: dict[Link, float] = {}  # the links whose flows must be shared anew, and the slowest that left
        self._finished: list[Flow] = []
        self.now = -inf
        """The time that is reached (seconds); minus infinity before the first flow."""
        self._number = 0
        self.opened: float = 0
        """Bytes of all flows so far."""
        self.delivered: float = 0
        """Bytes of those that finished."""
        self.lost: float = 0
        """Bytes carried by those that were closed before."""
        self.unsent: float = 0
        """Bytes that those never sent."""

    def way(self, path: Sequence[Hashable]) -> Way:
        """What is to know of a path: its latency, and the rate of a transfer alone. ValueError as for `open`."""
        return self._links.along(path)

    def open(self, path: Sequence[Hashable] | Way, nbytes: float, now: float) -> Flow:
        """Start to send bytes along a path or known way, when its latency is over (which the caller waits for).

        Without bytes, without links or on infinite capacity alone it finishes at once. ValueError if there is no such
        path, if it uses a link twice, if the bytes are negative or not finite, or if time runs backwards.
        """
        if not 0 <= nbytes <= LARGEST:
            raise ValueError(f"a transfer of {nbytes!r} bytes: expected a finite number, 0 or more")
        way = path if isinstance(path, Way) else self.way(path)
        self._reach(now)
        flow = Flow(self.share, self._number, way, nbytes, now)
        self._number += 1
        self.opened += nbytes
        for link in flow.links:
            if link.until <= now:
                self._turn(link)
            if link.slack < flow.cap:
                self._watch()  # whoever has finished meanwhile makes room
                if link.slack < flow.cap:
                    self._changed.setdefault(link, inf)
            link.flows[flow] = None
            link.slack -= flow.cap
        self._fresh.add(flow)
        return flow

    def close(self, flow: Flow, now: float) -> float:
        """Stop a flow before its end: the bytes it has carried, which are lost. One that has ended stays as it is."""
        self._reach(now)
        self._watch()
        left = flow.remaining(now)
        if flow in self._flows:
            self._flows.remove(flow)
            self._leave(flow, left, finish=inf)
            self.lost += flow.nbytes - left
            self.unsent += left
        return flow.nbytes - left

    def advance(self, now: float) -> list[Flow]:
        """All flows that finished until `now` and were not told before: by time, then by order of opening."""
        self._reach(now)
        self._watch()
        self._finish_until(now)
        finished, self._finished = self._finished, []
        if len(finished) > 1:
            finished.sort(key=attrgetter("shared_finish", "number"))
        return finished

    def complete(self, flow: Flow, now: float) -> bool:
        """End a flow whose foreseen finish has come, in place of `advance`; False if somebody else is concerned."""
        if flow not in self._fresh or self._finished or self._is_due(now):
            return False
        self.now = now
        self._fresh.remove(flow)
        self._leave(flow, left=0.0, finish=flow.shared_finish)
        self.delivered += flow.nbytes
        return True

    def unhindered(self, flow: Flow) -> bool:
        """Whether it is known to go at its top rate, so that it cannot finish sooner than it is foreseen to."""
        return not self._changed and flow.shared_rate == flow.top_rate

    @property
    def under_way(self) -> list[Flow]:
        """All flows that are not told yet to have ended, in the order of opening."""
        return sorted(self._flows | self._fresh, key=attrgetter("number"))

    @property
    def next_finish(self) -> float:
        """When the next flow finishes (seconds) if nothing else changes before; infinite if none does.

        The answer needs new rates, so it is best asked once for all that changes at one instant.
        """
        self.share()
        while self._finishes and not self._first_holds():
            pass
        return self._finishes[0][0] if self._finishes else inf

    @property
    def next_event(self) -> float:
        """When the next flow finishes or the capacity of a link in use may change (seconds), whichever is first."""
        finish = self.next_finish
        return min(finish, self._steps[0][0]) if self._steps else finish

    def share(self) -> None:
        """Work out the rates that the latest changes have touched. Whoever asks for a rate or a finish causes it."""
        self._watch()
        if not self._changed:
            return
        level, seen = self._felt_level(), set[Flow]()
        for link in self._changed:
            for flow in link.flows:
                if flow.units >= level and flow not in seen:
                    self._share_pool(*pool_around(flow, level, seen))
        self._changed.clear()

    def _felt_level(self) -> float:
        """The least rate (units) that the latest changes can have touched.

        Let all rates rise together from 0, once as before the changes and once as after them. Where a flow has left,
        the two differ from its rate on. Where one has come, they differ from the rate on at which the link is full
        with it. Where a capacity has changed, they differ from the rate on at which the link was full or is full now.
        Below the least of these rates both are the same, link for link: whoever has stopped there has its fair rate
        already, and whoever has come and stops there has its top rate.
        """
        return min(min(left, full_level(link)) for link, left in self._changed.items())

    def check(self) -> None:
        """AssertionError if a link carries more than its capacity, or if bytes went astray (beyond 1e-9 relative)."""
        self.share()
        for link in self._links.used():
            load = fsum(flow.shared_rate for flow in link.flows)
            assert load <= link.capacity * (1 + 1e-9), f"a link of {link.capacity!r} bytes per second carries {load!r}"
        under_way = fsum(flow.nbytes for flow in self._flows | self._fresh)
        known = self.delivered + self.lost + self.unsent + under_way
        assert abs(known - self.opened) <= 1e-9 * self.opened, (
            f"{self.opened!r} bytes were opened, {known!r} are known of"
        )

    def _share_pool(self, flows: list[Flow], links: list[Link]) -> None:
        for flow, (units, rate) in fair_rates(flows, links, self._links.scale).items():
            flow.turn(units, rate, self.now)
            flow.pool = flows
        self._expect(flows)

    def _reach(self, now: float) -> None:
        """Go on to a later time. What changes at the time that is already reached belongs to the same change."""
        if now != self.now:
            if not now > self.now:
                raise ValueError(f"time runs backwards, from {self.now!r} s to {now!r} s")
            if self._is_due(now):
                self._finish_until(now)
            self.now = now

    def _is_due(self, now: float) -> bool:
        """Whether until then anything happens but that fresh flows end."""
        if self._steps and self._steps[0][0] <= now:
            return True
        return bool(self._changed) or (bool(self._finishes) and self._finishes[0][0] <= now)

    def _watch(self) -> None:
        """From now on no flow is fresh: those whose finish was passed have ended, the others get into the heap."""
        for flow in self._fresh:
            self._flows.add(flow)
            if flow.shared_finish <= self.now and flow.since < self.now:
                self._finish(flow, flow.shared_finish)
            else:
                flow.pool = [flow]
                self._expect(flow.pool)
        self._fresh.clear()

    def _finish_until(self, now: float) -> None:
        """Each round ends a flow or changes a capacity, and starts none, so the rounds come to an end."""
        until = min(now, LARGEST)
        while (event := self.next_event) <= until:
            self.now = event
            while self._finishes and self._finishes[0][0] <= event:
                pool = self._finishes[0][3]
                for flow in [flow for flow in pool if flow.pool is pool and flow.shared_finish <= event]:
                    self._finish(flow, event)
                self._first_holds()
            while self._steps and self._steps[0][0] <= event:
                link = heappop(self._steps)[2]
                if link.flows:
                    self._turn(link)
            if event == now:
                return  # what starts now is shared out in one go with what has ended

    def _turn(self, link: Link) -> None:
        """Let a link have the capacity of this moment.

        If it has grown, its fastest flow was not faster than the rate at which it was full.
        """
        grown = self._links.turn(link, self.now)
        if link.flows:
            full = max(flow.units for flow in link.flows) if grown > 0 else inf
            self._changed[link] = min(full, self._changed.get(link, inf))
        if link.until < inf:
            self._turns += 1
            heappush(self._steps, (link.until, self._turns, link))

    def _finish(self, flow: Flow, finish: float) -> None:
        self._flows.remove(flow)
        self._leave(flow, left=0.0, finish=finish)
        self.delivered += flow.nbytes
        self._finished.append(flow)

    def _leave(self, flow: Flow, left: float, finish: float) -> None:
        for link in flow.links:
            del link.flows[flow]
            if link.slack < 0:
                self._changed[link] = min(flow.units, self._changed.get(link, inf))
            link.slack += flow.cap
        flow.left, flow.shared_rate, flow.shared_finish, flow.pool = left, 0.0, finish, None

    def _expect(self, pool: list[Flow]) -> None:
        """Note the first finish of a pool, and forget pools without flows when they are too many."""
        self._pools += 1
        first = min(pool, key=FINISH)
        heappush(self._finishes, (first.shared_finish, self._pools, first, pool))
        if len(self._finishes) > 64 + 4 * len(self._flows):
            self._finishes = [entry for entry in self._finishes if any(flow.pool is entry[3] for flow in entry[3])]
            heapify(self._finishes)

    def _first_holds(self) -> bool:
        """Whether the first in the heap is still of its pool; if not, the pool gets the place that it should have."""
        _, number, first, pool = self._finishes[0]
        if first.pool is pool:
            return True
        pool[:] = [flow for flow in pool if flow.pool is pool]
        if pool:
            first = min(pool, key=FINISH)
            heapreplace(self._finishes, (first.shared_finish, number, first, pool))
        else:
            heappop(self._finishes)
        return False
