"""Which clients take part in which round, where time is cut into rounds: whoever is on and takes part can be asked."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import Field

from fedsim.fleet.rates import Rates
from fedsim.rng import chance
from fedsim.units import FOREVER


@dataclass(frozen=True)
class Participation:
    """Everybody in every round; the base of all the others. Rounds are the turns of a Roster."""

    source: ClassVar[str] = ""

    def present(self, client: int, round: int) -> bool:
        """Whether the client takes part in a round; the same whoever asks, and in whatever order."""
        return True

    def share(self, client: int) -> float:
        """In which share of the rounds the client takes part in the long run, exactly; in (0, 1]."""
        return 1.0


@dataclass(frozen=True)
class Rated(Participation):
    """Clients that take part at given rates: what the models below have in common."""

    source: ClassVar[str] = "synthetic"

    rate: Rates
    clients: int
    seed: int

    def __post_init__(self) -> None:
        for client, rate in enumerate(self.rates):
            if not 0 < rate <= 1:
                raise ValueError(f"a rate of participation is above 0 and at most 1, not {rate} (client {client})")

    @cached_property
    def rates(self) -> Sequence[float]:
        """The rate that is wanted of each client."""
        return self.rate.draw(self.clients, self.seed)

    def share(self, client: int) -> float:
        """In which share of the rounds the client takes part."""
        return self.rates[client]


@dataclass(frozen=True)
class Bernoulli(Rated):
    """In each round with the client's rate as probability, independently over rounds and clients."""

    def present(self, client: int, round: int) -> bool:
        """Whether the client takes part in a round."""
        return chance(self.seed, "present", client, round) < self.rates[client]


@dataclass(frozen=True)
class Markov(Rated):
    """Clients come and go: two states with a Markov chain over the rounds, stationary from the start.

    FedAU (Wang and Ji, ICLR 2024), as in its public code, which names 0.05 for `up`. A client that is away comes with
    probability `up`, and one that is there goes with probability up * (1 / p - 1), so that its share is its rate p;
    if that exceeds 1, it goes at once and comes with probability p / (1 - p), which is less than `up`.
    """

    up: Annotated[float, Field(ge=1e-6, le=1)] = 0.05

    def present(self, client: int, round: int) -> bool:
        """Whether the client takes part in a round."""
        ends = self._ends.setdefault(client, [])
        while not ends or ends[-1] <= round:
            ends.append((ends[-1] if ends else 0) + self._sojourn(client, len(ends)))
        return self._is_there(client, bisect_right(ends, round))

    def _is_there(self, client: int, sojourn: int) -> bool:
        """Whether the client takes part during its n-th sojourn."""
        first = chance(self.seed, "present", client) < self.rates[client]
        return first == (sojourn % 2 == 0)

    def _sojourn(self, client: int, number: int) -> int:
        """Rounds, at least 1: geometric, as a Markov chain has no memory."""
        come, go = self.odds(self.rates[client])
        change = go if self._is_there(client, number) else come
        if change in (0, 1):  # certain: nothing to draw
            return 1 if change else FOREVER
        level = chance(self.seed, "present", client, "sojourn", number)
        return 1 + math.floor(min(math.log1p(-level) / math.log1p(-change), FOREVER))

    def odds(self, rate: float) -> tuple[float, float]:
        """The probabilities to come and to go."""
        go = self.up * (1 / rate - 1)
        return (self.up, go) if go <= 1 else (rate / (1 - rate), 1.0)

    @cached_property
    def _ends(self) -> dict[int, list[int]]:
        """For each client the rounds before which its sojourns end, as far as was asked: a memory, not a state."""
        return {}


@dataclass(frozen=True)
class Cyclic(Rated):
    """There for some rounds in a row, then away for the rest of a cycle, again and again.

    FedAU (Wang and Ji, ICLR 2024), as in its public code, which names 100 for `period`: there for round(period * p)
    rounds, at least 1, and away for what is left of the period, at least 1 if p < 1. So the share is that of the whole
    rounds, not p. A client's phase is even over its cycle, so that as many take part in the first round as in any; in
    FedAU's code it is even over the absence alone, and everybody starts away or has just come.
    """

    period: Annotated[int, Field(ge=1)] = 100

    def present(self, client: int, round: int) -> bool:
        """Whether the client takes part in a round."""
        there, away = self.spells(self.rates[client])
        phase = int(chance(self.seed, "present", client) * (there + away))
        return (round + phase) % (there + away) < there

    def share(self, client: int) -> float:
        """In which share of the rounds the client takes part."""
        there, away = self.spells(self.rates[client])
        return there / (there + away)

    def spells(self, rate: float) -> tuple[int, int]:
        """For how many rounds a client is there, and then away."""
        there = max(1, round(self.period * rate))
        return there, max(self.period - there, int(rate < 1))
