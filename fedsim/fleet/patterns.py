"""Straggler patterns: who may straggle in which round. Codes tolerate them, and adversaries draw them.

A pattern is a table of rounds x workers, true where a worker straggles. Every model here only limits: with fewer
stragglers a conforming pattern conforms still.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

Count = Annotated[int, Field(ge=1)]
Some = Annotated[int, Field(ge=0)]


class Pattern(ABC):
    """A model of stragglers: which patterns conform to it."""

    @property
    @abstractmethod
    def span(self) -> int:
        """Whether a round may be as it is depends on so many rounds: itself and those before it."""

    @abstractmethod
    def admits(self, past: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Whether a pattern that conforms so far goes on conforming.

        Args:
            past: the rounds before, oldest first, bool (..., rounds, workers); those beyond `span` do not count.
            now: who straggles, bool (..., workers).

        Returns:
            bool (...): the leading axes are patterns side by side.
        """

    def recent(self, past: np.ndarray, span: int) -> np.ndarray:
        """Who has straggled, and how often, in the last `span` - 1 rounds: int (..., workers)."""
        return past[..., max(0, past.shape[-2] - span + 1) :, :].sum(axis=-2)

    def conforms(self, pattern: np.ndarray) -> bool:
        """Whether a whole pattern, bool (rounds, workers), conforms."""
        return all(self.admits(pattern[:round], now).all() for round, now in enumerate(pattern))


@dataclass(frozen=True)
class PerRound(Pattern):
    """At most so many stragglers in a round."""

    stragglers: Some

    @property
    def span(self) -> int:
        """Every round stands alone."""
        return 1

    def admits(self, past: np.ndarray, now: np.ndarray) -> np.ndarray:
        """See `Pattern`."""
        return now.sum(axis=-1) <= self.stragglers


@dataclass(frozen=True)
class Bursty(Pattern):
    """In every `window` rounds at most so many `stragglers`, and a straggler's rounds in it span at most `burst`.

    The (B, W, lambda)-bursty model of Krishnan, Ebrahimi and Khisti, Sequential Gradient Coding (ICLR 2023).
    """

    burst: Count
    window: Count
    stragglers: Some | np.ndarray

    def __post_init__(self) -> None:
        if self.burst > self.window:
            raise ValueError(f"a burst of {self.burst} rounds is longer than the window of {self.window}")

    @property
    def span(self) -> int:
        """The window."""
        return self.window

    def admits(self, past: np.ndarray, now: np.ndarray) -> np.ndarray:
        """See `Pattern`: two straggles of a worker lie less than `burst` rounds apart, or at least `window`."""
        return self.allows(self.memory(past), now)

    def memory(self, past: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What counts of the past: who has straggled within the window, and who may not now; bool (..., workers)."""
        first, end = (max(0, past.shape[-2] - rounds + 1) for rounds in (self.window, self.burst))
        return self.recent(past, self.window) > 0, past[..., first:end, :].sum(axis=-2) > 0

    def allows(self, memory: tuple[np.ndarray, np.ndarray], now: np.ndarray) -> np.ndarray:
        """As `admits`; patterns side by side may each have their own number of stragglers."""
        recent, barred = memory
        return ((recent | now).sum(axis=-1) <= self.stragglers) & ~(barred & now).any(axis=-1)


@dataclass(frozen=True)
class Arbitrary(Pattern):
    """In every `window` rounds at most so many `stragglers`, each in at most `times` rounds of it.

    The (N, W', lambda')-arbitrary model of Krishnan, Ebrahimi and Khisti, Sequential Gradient Coding (ICLR 2023).
    """

    times: Count
    window: Count
    stragglers: Some

    @property
    def span(self) -> int:
        """The window."""
        return self.window

    def admits(self, past: np.ndarray, now: np.ndarray) -> np.ndarray:
        """See `Pattern`."""
        counts = self.recent(past, self.window) + now
        return ((counts > 0).sum(axis=-1) <= self.stragglers) & (counts <= self.times).all(axis=-1)


def maximal(pattern: Pattern, rounds: int, workers: int, rng: np.random.Generator) -> np.ndarray:
    """A random conforming pattern to which no straggler can be added: bool (rounds, workers).

    Cells are tried in random order, and each maximal pattern can come out.
    """
    grid = np.zeros((rounds, workers), dtype=bool)
    for cell in rng.permutation(rounds * workers):
        round, worker = divmod(int(cell), workers)
        grid[round, worker] = True
        after = range(round, min(rounds, round + pattern.span))
        if not all(pattern.admits(grid[max(0, each - pattern.span + 1) : each], grid[each]) for each in after):
            grid[round, worker] = False
    return grid
