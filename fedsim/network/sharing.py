"""Who touches whom on shared links, and what share is fair. Nothing here knows the time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from math import inf
from operator import attrgetter
from typing import Any

from fedsim.network.capacity import Varying

NEARLY = 1 + 1e-12
"""Whoever was to finish before so many times the time at which its rate changes has finished with the change."""


@dataclass(slots=True, eq=False)
class Link:
    """One capacity: an edge, or one direction of it."""

    capacity: float
    """Bytes per second, at present."""
    latency: float
    """Seconds."""
    units: int
    """The capacity as an integer; 0 where it is infinite."""
    slack: int
    """The capacity less the top rates of all its flows, in units. Where it is negative the link is tight."""
    peak: tuple[int, float]
    """The largest capacity ever, in units and in bytes per second."""
    varying: Varying | None = None
    until: float = inf
    """When the present capacity ends (seconds); of a link that varies, past as long as nobody uses it."""
    flows: dict[Flow, None] = field(default_factory=dict, repr=False)
    free: int = 0
    """While rates are worked out: the units that are not given away yet."""
    waiting: int = 0
    """While rates are worked out: the flows that have no rate yet."""


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """A path, and what a transfer has to know of it."""

    path: tuple[Hashable, ...]
    links: tuple[Link, ...]
    """Those that can hold a transfer up, as their capacity is finite."""
    cap: int
    """The units of the narrowest of them at its best; 0 if there is none."""
    top_rate: float
    """The same in bytes per second; infinite if there is none."""
    latency: float
    """Seconds, of all links together."""


@dataclass(slots=True, eq=False)
class Flow:
    """One transfer under way. `Fluid.open` makes it; others read `path`, `nbytes`, `rate`, `finish` and own `token`."""

    share: Callable[[], None]
    """Works out the rates that the latest changes have touched."""
    number: int
    """Its place in the order of opening."""
    way: Way
    nbytes: float
    since: float
    """When its rate last changed (seconds)."""
    links: Sequence[Link] = ()
    """Those that can hold it up; without any it finishes at once."""
    cap: int = 0
    """The units of the narrowest link at its best."""
    top_rate: float = 0.0
    """The same in bytes per second: its rate if nobody shares."""
    units: int = 0
    """`shared_rate` in units."""
    left: float = 0.0
    """Bytes to go at `since`."""
    shared_rate: float = 0.0
    """Its rate from then on."""
    shared_finish: float = inf
    pool: list[Flow] | None = field(default=None, repr=False)
    """With whom its rate was worked out; none if it is fresh or has ended."""
    token: Any = None
    """Whatever the owner likes to hang here."""

    def __post_init__(self) -> None:
        self.shared_finish, way = self.since, self.way
        if self.nbytes and way.links:
            self.links, self.cap, self.top_rate = way.links, way.cap, way.top_rate
            self.units = way.cap
            self.left, self.shared_rate = self.nbytes, way.top_rate
            self.shared_finish += self.nbytes / way.top_rate

    @property
    def path(self) -> tuple[Hashable, ...]:
        """The nodes that it passes."""
        return self.way.path

    @property
    def rate(self) -> float:
        """Bytes per second at this moment; 0 if it has ended or takes no time."""
        self.share()
        return self.shared_rate

    @property
    def finish(self) -> float:
        """When it finishes (seconds) if nothing else changes; when it did; infinite if it was closed before."""
        self.share()
        return self.shared_finish

    def remaining(self, now: float) -> float:
        """Bytes to go at `now`, while its rate is still the same."""
        return max(0.0, self.left - self.shared_rate * (now - self.since))

    def turn(self, units: int, rate: float, now: float) -> None:
        """Go on at another rate. The same rate changes nothing, so the foreseen finish does not drift."""
        self.units = units
        if rate != self.shared_rate:
            self.left = self.remaining(now)
            if self.shared_finish <= now * NEARLY and self.since < now:
                self.left = 0.0
            self.since = now
            self.shared_rate = rate
            self.shared_finish = now + self.left / rate if rate else inf if self.left else now


def full_level(link: Link) -> int | float:
    """At which common rate (units) a link is full, if its flows rise together up to their present rates at most.

    Infinite if these leave room.
    """
    room, rising = link.units, len(link.flows)
    for units in sorted(flow.units for flow in link.flows):
        if room // rising < units:
            return room // rising
        room, rising = room - units, rising - 1
    return inf


def pool_around(flow: Flow, level: float, seen: set[Flow]) -> tuple[list[Flow], list[Link]]:
    """All flows of this level or faster that tight links connect with this one, and those links.

    The flows are added to `seen`. The links get ready for `fair_rates`: slower flows have taken their part already.
    """
    flows: list[Flow] = [flow]
    links: dict[Link, None] = {}
    seen.add(flow)
    for member in flows:  # which grows meanwhile
        for link in member.links:
            if link.slack < 0 and link not in links:
                links[link] = None
                slow = [other.units for other in link.flows if other.units < level]
                link.free, link.waiting = link.units - sum(slow), len(link.flows) - len(slow)
                fresh = [other for other in link.flows if other not in seen and other.units >= level]
                seen.update(fresh)
                flows += fresh
    return flows, list(links)


def fair_rates(flows: list[Flow], links: list[Link], scale: int) -> dict[Flow, tuple[int, float]]:
    """The max-min fair rates of a pool (units, and bytes per second); `scale` is their proportion.

    Progressive filling (Bertsekas and Gallager, Data Networks, 2nd edition, section 6.5.2): all rates rise together,
    and a flow stops at its top rate or when one of its links is full. A link's equal share only grows as flows stop, so
    a heap whose top is brought up to date has the smallest.
    """
    if not links:
        return {flow: (flow.cap, flow.top_rate) for flow in flows}
    shares = [(link.free // link.waiting, place) for place, link in enumerate(links)]
    heapify(shares)
    by_cap = sorted(flows, key=attrgetter("cap"), reverse=True)
    rising, rates = set(flows), {}
    while shares:
        share, place = shares[0]
        link = links[place]
        if not link.waiting:
            heappop(shares)
        elif link.free // link.waiting > share:
            heapreplace(shares, (link.free // link.waiting, place))
        else:
            _stop(_slow(by_cap, share) or link.flows, share, share / scale, rising, rates)
    return rates


def _slow(by_cap: list[Flow], share: int) -> list[Flow]:
    """Takes the flows that cannot use more than this share from the end of the list."""
    slow: list[Flow] = []
    while by_cap and by_cap[-1].cap <= share:
        slow.append(by_cap.pop())
    return slow


def _stop(
    flows: Iterable[Flow], share: int, rate: float, rising: set[Flow], rates: dict[Flow, tuple[int, float]]
) -> None:
    """Those of the flows that still rise stop at this share (in units and as a rate), or at their top rate if less."""
    for flow in flows:
        if flow in rising:
            rising.remove(flow)
            units, _ = rates[flow] = (flow.cap, flow.top_rate) if flow.cap <= share else (share, rate)
            for link in flow.links:  # loose ones too, as it is cheaper than to ask
                link.free -= units
                link.waiting -= 1
