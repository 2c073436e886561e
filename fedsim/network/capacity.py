"""Capacities that change in time, in steps: what was recorded, over and over, and what is down for a while.

Each is a function of time that nobody has to keep up to date, so that a link without traffic costs nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import floor, inf
from typing import Protocol

from fedsim.units import SECOND


class Varying(Protocol):
    """What a link's `capacity` is where it is not one number."""

    @property
    def levels(self) -> frozenset[float]:
        """Every capacity that the link may have (bytes per second; 0: nothing passes)."""
        ...

    def at(self, time: float) -> tuple[float, float]:
        """The capacity at a time, and the later time from which on it may be another; infinite if it stays."""
        ...


class Steps:
    """One capacity before the first step, then from each step's time on (seconds, increasing) the step's capacity.

    >>> Steps(10.0, [(2.0, 0.0), (5.0, 4.0)]).at(2.0)
    (0.0, 5.0)
    """

    def __init__(self, first: float, steps: Sequence[tuple[float, float]] = ()) -> None:
        self._times = [time for time, _ in steps]
        self._capacities = [first, *(capacity for _, capacity in steps)]
        self.levels = frozenset(self._capacities)
        if not _increase([-inf, *self._times, inf]):
            raise ValueError(f"steps at {self._times!r} s: expected increasing, finite times")

    def at(self, time: float) -> tuple[float, float]:
        """See `Varying`."""
        place = bisect_right(self._times, time)
        return self._capacities[place], self._times[place] if place < len(self._times) else inf


@dataclass(frozen=True)
class Recording:
    """Capacities one after the other: `capacities[i]` (bytes per second) until `ends[i]` (microseconds, increasing)."""

    capacities: Sequence[float]
    ends: Sequence[int]

    def __post_init__(self) -> None:
        if not _increase([0, *self.ends]):
            raise ValueError("the times of a recording must increase")
        if not max(self.capacities, default=0) > 0:
            raise ValueError("a recording in which nothing ever passes")

    @cached_property
    def levels(self) -> frozenset[float]:
        """Every capacity that occurs."""
        return frozenset(self.capacities)


@dataclass(frozen=True)
class Repeated:
    """A recording that begins anew whenever it ends; at time 0 it is `offset` microseconds old."""

    recording: Recording
    offset: int = 0

    @property
    def levels(self) -> frozenset[float]:
        """See `Varying`."""
        return self.recording.levels

    def at(self, time: float) -> tuple[float, float]:
        """See `Varying`. Steps are at whole microseconds; a time between two of these counts as it is.

        >>> Repeated(Recording([5.0, 0.0], [1_000_000, 1_500_000]), offset=250_000).at(1.0)
        (0.0, 1.25)
        """
        ends = self.recording.ends
        cycle, age = divmod(floor(time * SECOND) + self.offset, ends[-1])
        begun, place = cycle * ends[-1] - self.offset, bisect_right(ends, age)
        while (end := (begun + ends[place]) / SECOND) <= time:  # what the rounding to microseconds has hidden
            place += 1
            if place == len(ends):
                begun, place = begun + ends[-1], 0
        return self.recording.capacities[place], end


class Interrupted:
    """A capacity that is 0 from the start of each outage to its end (seconds); outages may overlap.

    >>> link = Interrupted(8.0, [(4.0, 6.0), (5.0, 9.0)])
    >>> link.at(1.0), link.at(4.0), link.at(9.0), link.is_down(5.0)
    ((8.0, 4.0), (0.0, 9.0), (8.0, inf), True)
    """

    def __init__(self, capacity: float | Varying, outages: Iterable[tuple[float, float]]) -> None:
        self._capacity = Steps(capacity) if isinstance(capacity, int | float) else capacity
        self.outages = _apart(outages)
        """Those that overlap or touch count as one."""
        self._starts = [start for start, _ in self.outages]
        self.levels = self._capacity.levels | {0.0}

    def is_down(self, time: float) -> bool:
        """Whether an outage is under way."""
        place = bisect_right(self._starts, time)
        return place > 0 and time < self.outages[place - 1][1]

    def at(self, time: float) -> tuple[float, float]:
        """See `Varying`."""
        place = bisect_right(self._starts, time)
        if place and time < self.outages[place - 1][1]:
            return 0.0, self.outages[place - 1][1]
        capacity, until = self._capacity.at(time)
        return capacity, min(until, self._starts[place] if place < len(self._starts) else inf)


class Degraded:
    """A capacity that falls to a share of itself from the start of each period to its end (seconds).

    >>> link = Degraded(8.0, [(4.0, 6.0)], share=0.25)
    >>> link.at(1.0), link.at(4.0), link.at(6.0)
    ((8.0, 4.0), (2.0, 6.0), (8.0, inf))
    """

    def __init__(self, capacity: float | Varying, periods: Iterable[tuple[float, float]], share: float) -> None:
        self._capacity = Steps(capacity) if isinstance(capacity, int | float) else capacity
        self._periods, self._share = _apart(periods), share
        self._starts = [start for start, _ in self._periods]
        self.levels = self._capacity.levels | {share * level for level in self._capacity.levels}

    def at(self, time: float) -> tuple[float, float]:
        """See `Varying`."""
        capacity, until = self._capacity.at(time)
        place = bisect_right(self._starts, time)
        if place and time < self._periods[place - 1][1]:
            return self._share * capacity, min(until, self._periods[place - 1][1])
        return capacity, min(until, self._starts[place] if place < len(self._starts) else inf)


def _apart(outages: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """In order, with those that overlap or touch made into one."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(outages):
        if not -inf < start < end:
            raise ValueError(f"an outage from {start!r} s to {end!r} s: expected a later end")
        if merged and start <= merged[-1][1]:
            start, last = merged.pop()
            end = max(end, last)
        merged.append((start, end))
    return merged


def _increase(times: Sequence[float]) -> bool:
    return all(one < other for one, other in pairwise(times))
