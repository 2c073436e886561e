"""Stragglers as bad as a model of them allows: a random pattern that conforms, and that nobody could join."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedsim.fleet.patterns import Arbitrary, Bursty, Count, Pattern, PerRound, Some
from fedsim.fleet.stragglers import Stragglers
from fedsim.rng import stream


@dataclass(frozen=True, kw_only=True)
class Adversary(Stragglers, ABC):
    """Who straggles takes `slowdown` times as long; a client's n-th training is the n-th round.

    Each round takes clients in random order, and lets straggle whom the pattern still admits. `clients` is given by the
    run. Who straggles is synthetic, and so is the default slowdown.
    """

    source: ClassVar[str] = "synthetic"

    clients: int = 1
    slowdown: Annotated[float, Field(ge=1, le=1e6)] = 8.0

    @property
    @abstractmethod
    def pattern(self) -> Pattern:
        """What limits it."""

    def factor(self, client: int, ordinal: int, seed: int) -> float:
        """What this local training takes, over what the device needs."""
        drawn = self._drawn.setdefault(seed, [])
        while len(drawn) <= ordinal:
            drawn.append(self._round(drawn, seed))
        return self.slowdown if drawn[ordinal][client] else 1.0

    def _round(self, drawn: list[np.ndarray], seed: int) -> np.ndarray:
        past = np.array(drawn[max(0, len(drawn) - self.pattern.span + 1) :], dtype=bool).reshape(-1, self.clients)
        now = np.zeros(self.clients, dtype=bool)
        for client in stream(seed, "straggler", "round", len(drawn)).permutation(self.clients):
            now[client] = True
            now[client] = bool(self.pattern.admits(past, now))
        return now

    @cached_property
    def _drawn(self) -> dict[int, list[np.ndarray]]:
        """For each seed, who straggles in each round, as far as was asked: a memory, not a state."""
        return {}


@dataclass(frozen=True, kw_only=True)
class StragglersPerRound(Adversary):
    """So many clients in every round, drawn anew."""

    stragglers: Some

    @property
    def pattern(self) -> Pattern:
        """What limits it."""
        return PerRound(self.stragglers)


@dataclass(frozen=True, kw_only=True)
class BurstyStragglers(Adversary):
    """In every `window` rounds at most so many `stragglers`, and a straggler's rounds in it span at most `burst`."""

    burst: Count
    window: Count
    stragglers: Some

    def __post_init__(self) -> None:
        _ = self.pattern  # refuses nonsense now

    @property
    def pattern(self) -> Pattern:
        """What limits it."""
        return Bursty(self.burst, self.window, self.stragglers)


@dataclass(frozen=True, kw_only=True)
class ArbitraryStragglers(Adversary):
    """In every `window` rounds at most so many `stragglers`, each in at most `times` rounds of it."""

    times: Count
    window: Count
    stragglers: Some

    @property
    def pattern(self) -> Pattern:
        """What limits it."""
        return Arbitrary(self.times, self.window, self.stragglers)
