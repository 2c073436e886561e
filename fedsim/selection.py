"""Whom to ask: policies that choose among the clients who could be asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import log, sqrt
from typing import Annotated, ClassVar, Literal, Protocol

from pydantic import Field

from fedsim.readings import Readings
from fedsim.rng import chance, stream
from fedsim.units import Probability
from fedsim.work import Update


class Pool:
    """A set of clients whose members can also be drawn by position; every operation is O(1).

    >>> pool = Pool([3, 1, 4]); pool.discard(3); list(pool), len(pool), 3 in pool
    ([4, 1], 2, False)
    """

    def __init__(self, clients: Iterable[int] = ()):
        self._members: list[int] = []
        self._place: dict[int, int] = {}
        for client in clients:
            self.add(client)

    def add(self, client: int) -> None:
        """Nothing happens if it is in already."""
        if client not in self._place:
            self._place[client] = len(self._members)
            self._members.append(client)

    def discard(self, client: int) -> None:
        """Nothing happens if it is not in."""
        place = self._place.pop(client, None)
        if place is not None:
            last = self._members.pop()
            if last != client:
                self._members[place] = last
                self._place[last] = place

    def __getitem__(self, place: int) -> int:
        return self._members[place]

    def __contains__(self, client: object) -> bool:
        return client in self._place

    def __iter__(self) -> Iterator[int]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


class Select(Protocol):
    """A selection policy. It may learn from what is heard, but it draws only at addresses."""

    reads_numbers: ClassVar[bool] = False
    """Whether its choices, and so the timeline, depend on what training yields."""

    def choose(self, pool: Pool, count: int, turn: int) -> list[int]:
        """Up to `count` different clients out of `pool`, in the server's `turn`-th request."""
        ...

    def heard(self, update: Update, turn: int) -> None:
        """An update has arrived and counted. Most policies do not care."""


@dataclass(frozen=True)
class Uniform(Select):
    """Everybody with equal chance."""

    seed: int

    def choose(self, pool: Pool, count: int, turn: int) -> list[int]:
        """A partial Fisher-Yates shuffle of positions, O(count) however large the pool."""
        chosen: list[int] = []
        moved: dict[int, int] = {}
        for draw in range(min(count, len(pool))):
            last = len(pool) - draw - 1
            place = int(chance(self.seed, "select", turn, draw) * (last + 1))
            chosen.append(pool[moved.get(place, place)])
            moved[place] = moved.get(last, last)
        return chosen


@dataclass
class ByAvailability(Select):
    """Those first who are here most often (`frequent`: few lost rounds) or least often (`rare`: nobody is missed).

    How often a client is here is what the server can see: in which share of its requests it could have been asked.
    `rare` follows the least-available-first priority of REFL (Abdelmoniem et al., EuroSys 2023). Equals are shuffled.
    """

    seed: int
    prefer: Literal["frequent", "rare"] = "rare"
    seen: dict[int, int] = field(default_factory=dict, init=False)

    def choose(self, pool: Pool, count: int, turn: int) -> list[int]:
        """Sort the pool by how often each was in it."""
        for client in pool:
            self.seen[client] = self.seen.get(client, 0) + 1
        sign = 1 if self.prefer == "rare" else -1
        return sorted(pool, key=lambda c: (sign * self.seen[c], chance(self.seed, "select", turn, c)))[:count]


@dataclass
class Oort(Select):
    """Utility-guided selection (Lai et al., OSDI 2021, Algorithm 1): high loss first, slow clients discounted.

    The statistical utility of a client is n * sqrt(mean squared loss) at its last participation; a term for how long
    ago that was is added; a client slower than the preferred duration T is discounted by (T / t) ** penalty. A share
    of each request explores clients never heard. Here T is the `pace` quantile of durations seen, in place of the
    paper's pacer, and the confidence term counts requests. Utilities are clipped at their `clip` quantile. It reads
    numbers, so a timeline with Oort cannot be had without training.
    """

    reads_numbers: ClassVar[bool] = True

    seed: int
    explore: Probability = 0.9
    explore_decay: Probability = 0.98
    explore_least: Probability = 0.2
    penalty: Annotated[float, Field(ge=0)] = 2.0
    pace: Probability = 0.8
    clip: Probability = 0.95
    utility: dict[int, float] = field(default_factory=dict, init=False)
    duration: dict[int, int] = field(default_factory=dict, init=False)
    last: dict[int, int] = field(default_factory=dict, init=False)
    unread: list[Update] = field(default_factory=list, init=False)
    readings: Readings = field(default_factory=Readings, init=False)
    """Squared losses."""

    def choose(self, pool: Pool, count: int, turn: int) -> list[int]:
        """Explore the unknown, exploit the best of the known by chance in proportion to utility."""
        self._read()
        known = sorted(client for client in pool if client in self.utility)
        unknown = Pool(sorted(client for client in pool if client not in self.utility))
        share = max(self.explore_least, self.explore * self.explore_decay ** (turn - 1))
        exploring = max(round(share * count), count - len(known))
        explored = Uniform(self.seed).choose(unknown, min(exploring, count), turn)
        return explored + self._best(known, count - len(explored), turn)

    def _best(self, known: list[int], count: int, turn: int) -> list[int]:
        if not known or count <= 0:
            return []
        worth = self.worth(known, turn)
        # Weighted sampling without replacement by exponential keys (Efraimidis and Spirakis, 2006).
        keys = stream(self.seed, "oort", turn).exponential(size=len(known)) / [worth[client] for client in known]
        return [known[place] for place in keys.argsort(kind="stable")[:count]]

    def worth(self, known: list[int], turn: int) -> dict[int, float]:
        """Each client's utility in this turn; always positive."""
        limit = _quantile([self.utility[client] for client in known], self.clip)
        preferred = _quantile([self.duration[client] for client in known], self.pace)
        worth = {}
        for client in known:
            value = min(self.utility[client], limit) + sqrt(0.1 * log(turn + 1) / self.last[client])
            slow = self.duration[client] > preferred
            worth[client] = value * (preferred / self.duration[client]) ** self.penalty if slow else value
        return worth

    def heard(self, update: Update, turn: int) -> None:
        """Note when; the numbers are read only when they are needed, so that they can be computed together."""
        self.last[update.client] = turn
        self.unread.append(update)

    def _read(self) -> None:
        for update in self.unread:
            loss = self.readings.read(lambda update=update: update.numbers.result().square_loss)
            self.utility[update.client] = update.examples * sqrt(loss)
            self.duration[update.client] = update.duration
        self.unread = []


def _quantile(values: list[float] | list[int], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


SELECT = {"uniform": Uniform, "availability": ByAvailability, "oort": Oort}
