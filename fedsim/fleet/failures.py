"""Clients that break: when in their work, and for how long they are gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fedsim.rng import chance
from fedsim.units import SECOND, Duration, Probability

Phase = Literal["download", "before", "during", "after", "upload"]


@dataclass(frozen=True, slots=True)
class Fate:
    """How one local training comes to nothing."""

    phase: Phase
    """During the download; before, during or after local training; or during the upload."""
    fraction: float
    """How far into the phase, in [0, 1)."""


@dataclass(frozen=True)
class Failures:
    """Probability that a client breaks in each phase of one local training; at most one of them happens.

    After `recovery` it can be asked again. The defaults are: never, and a synthetic minute. A bare number in a scenario
    is the probability to break during local training.
    """

    shorthand: ClassVar[str] = "during"
    before: Probability = 0.0
    during: Probability = 0.0
    after: Probability = 0.0
    upload: Probability = 0.0
    recovery: Duration = 60 * SECOND

    def __post_init__(self) -> None:
        if self.before + self.during + self.after + self.upload > 1 + 1e-9:
            raise ValueError("the probabilities of failures before, during, after and upload add up to more than 1")
        if self.recovery <= 0:
            raise ValueError("the recovery of a failed client must take longer than no time")

    @property
    def possible(self) -> bool:
        """Whether anybody can break at all."""
        return any((self.before, self.during, self.after, self.upload))

    def fate(self, client: int, ordinal: int, seed: int) -> Fate | None:
        """What befalls the client's n-th local training; None where it succeeds."""
        if not self.possible:
            return None
        left = chance(seed, "fate", client, ordinal)
        phases: tuple[Phase, ...] = ("before", "during", "after", "upload")
        for phase in phases:
            left -= getattr(self, phase)
            if left < 0:
                return Fate(phase, chance(seed, "fate", client, ordinal, phase))
        return None
