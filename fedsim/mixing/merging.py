"""In which rounds everybody's models are averaged (an all-reduce), in place of gossip."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from fedsim.errors import ScenarioError
from fedsim.units import Probability


@dataclass(frozen=True, kw_only=True)
class Merge(ABC):
    """A schedule of global averages over the rounds 0, 1, ..."""

    rounds: int | None = None
    """How many there are, if the run knows; it says so."""

    @abstractmethod
    def dense(self, round: int) -> bool:
        """Whether this round ends in the average of everybody. ScenarioError if `rounds` has to be known and is not."""

    def progress(self, round: int) -> Fraction:
        """How much of the run is over after a round. ScenarioError if nobody knows how many rounds there are."""
        if self.rounds is None:
            raise ScenarioError("merge: this schedule needs a run whose number of rounds is known: set until.versions")
        return Fraction(round + 1, self.rounds)


@dataclass(frozen=True, kw_only=True)
class Never(Merge):
    """Gossip only."""

    def dense(self, round: int) -> bool:
        """In no round."""
        return False


@dataclass(frozen=True, kw_only=True)
class Every(Merge):
    """Every so many rounds, as in Gossip-PGA (Chen et al., ICML 2021)."""

    period: Annotated[int, Field(ge=1)]
    """From one global average to the next."""

    def dense(self, round: int) -> bool:
        """At the end of each period."""
        return (round + 1) % self.period == 0


@dataclass(frozen=True, kw_only=True)
class Last(Merge):
    """Only the last round: the single global merge of Zhu et al. (ICLR 2026)."""

    def dense(self, round: int) -> bool:
        """In the last round."""
        return self.progress(round) == 1


@dataclass(frozen=True, kw_only=True)
class Window(Merge):
    """In part of the run: from progress `start` on, for this share of the run, whose end does not count.

    The windows of Zhu et al. (ICLR 2026); after round t (of 0, 1, ...) the progress is (t + 1) / rounds. In their
    public code the last round is always dense too, wherever the window lies, which hides what an early window leaves
    behind. Not so here: the last round, whose progress is 1, is dense if the window goes beyond 1, as in
    `{start: 0.9, share: 0.2}`.
    """

    start: Probability
    """The progress from which on rounds are dense."""
    share: Probability
    """How much of the run it lasts."""

    def dense(self, round: int) -> bool:
        """While the progress is in [start, start + share)."""
        return written(self.start) <= self.progress(round) < written(self.start) + written(self.share)


@dataclass(frozen=True, kw_only=True)
class Truncate(Merge):
    """From progress `start` on until the end: gossip first, then an all-reduce in every round (Zhu et al., ICLR 2026).

    After round t (of 0, 1, ...) the progress is (t + 1) / rounds, so the last round is always dense.
    """

    start: Probability
    """The progress from which on rounds are dense."""

    def dense(self, round: int) -> bool:
        """Once the progress is `start` or more."""
        return self.progress(round) >= written(self.start)


def written(share: float) -> Fraction:
    """The number as it stands in the scenario: in binary, 0.9 + 0.05 would be more than 0.95.

    >>> written(0.9) + written(0.05) == written(0.95)
    True
    """
    return Fraction(str(share))
