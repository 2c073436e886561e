"""How long a code takes over recorded times, without an engine: many candidates side by side, in numpy.

Time is what a round's seconds without any work are, plus `slope` times the part of the data that is looked at. The
rules are those of the codes and of `CodedSimulation` on a network that costs nothing; candidates of one call differ in
how many stragglers they bear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedsim.coding.multiplexed import multiplexed_load
from fedsim.coding.selective_repeat import repeated_stragglers
from fedsim.fleet.patterns import Bursty

Bears = Callable[[np.ndarray], np.ndarray]
"""Whether each candidate can bear who is late: bool (candidates, workers) -> (candidates,)."""


@dataclass(frozen=True)
class Replay:
    """Recorded times, and how the master waits.

    Args:
        seconds: of a round without work, (rounds, workers); a longer run begins again at the first.
        slope: seconds that the whole data would take on top.
        jobs: how many gradients.
        mu: whoever needs more than 1 + mu times as long as the fastest is late.
        wait_out: as `Code.wait_out`.
    """

    seconds: np.ndarray
    slope: float
    jobs: int
    mu: float = 1.0
    wait_out: Literal["pattern", "all"] = "pattern"

    @property
    def workers(self) -> int:
        """n."""
        return self.seconds.shape[1]

    def uncoded(self) -> Totals:
        """Wait for everybody."""
        totals = Totals.of(1)
        for round in range(self.jobs):
            work = np.full((1, self.workers), 1 / self.workers)
            totals.add(*self._round(round, work, lambda late: late.sum(axis=-1) == 0))
        return totals

    def gradient_code(self, stragglers: np.ndarray) -> Totals:
        """GC that bears so many, for each candidate."""
        totals = Totals.of(len(stragglers))
        work = np.repeat((stragglers[:, None] + 1) / self.workers, self.workers, axis=1)
        for round in range(self.jobs):
            totals.add(*self._round(round, work, lambda late: late.sum(axis=-1) <= stragglers))
        return totals

    def multiplexed(self, burst: int, window: int, stragglers: np.ndarray) -> Totals:
        """M-SGC with these burst and window, for each candidate's stragglers.

        Slots before the first job and behind the last are empty; all others cost the same, whatever has to be tried
        again, but that where everybody may straggle there is nothing else to do in the last ones.
        """
        totals, slots = Totals.of(len(stragglers)), window - 1 + burst
        loads = np.array([multiplexed_load(self.workers, burst, window, each) for each in stragglers.tolist()])
        everybody = stragglers == self.workers
        # how many of its own chunks the job in each slot lacks of each worker
        lacks = np.zeros((slots, len(stragglers), self.workers), dtype=int)
        past = History(Bursty(burst, window, stragglers), len(stragglers), self.workers)
        for round in range(self.jobs + slots - 1):
            open_slots = [k for k in range(slots) if 0 <= round - k < self.jobs]
            used = np.zeros((len(stragglers), self.workers), dtype=int)
            for k in open_slots:
                used += (lacks[k] > 0) | ~everybody[:, None] if k >= window - 1 else 1
            late = totals.add(*self._round(round, used * (loads / slots)[:, None], past.admits))
            for k in open_slots:
                lacks[k] += late if k < window - 1 else -(~late & (lacks[k] > 0)).astype(int)
            lacks = np.concatenate([np.zeros_like(lacks[:1]), lacks[:-1]])
            past.end(late)
        return totals

    def selective_repeat(self, burst: int, window: int, stragglers: np.ndarray) -> Totals:
        """SR-SGC with these burst and window, for each candidate's stragglers."""
        s = np.array([repeated_stragglers(burst, window, each) for each in stragglers.tolist()])
        totals = Totals.of(len(stragglers))
        past = History(Bursty(burst, window, stragglers), len(stragglers), self.workers)
        answered = np.ones((burst, len(stragglers), self.workers), dtype=bool)  # of the last jobs, in their own rounds
        for round in range(self.jobs + burst):
            missing = (self.workers - s - answered[0].sum(axis=-1)).clip(min=0)[:, None]
            repeats = ~answered[0] & (np.cumsum(~answered[0], axis=-1) <= missing)
            asked = repeats | (round < self.jobs)
            calm = ~repeats.any(axis=-1)

            def bears(late: np.ndarray, calm: np.ndarray = calm) -> np.ndarray:
                return calm & (late.sum(axis=-1) <= s) | past.admits(late)

            late = totals.add(*self._round(round, asked * ((s + 1) / self.workers)[:, None], bears))
            own = asked & ~repeats & ~late if round < self.jobs else np.ones_like(late)
            answered = np.concatenate([answered[1:], own[None]])
            past.end(late & ~(calm & (late.sum(axis=-1) <= s))[:, None])
        return totals

    def _round(self, round: int, work: np.ndarray, bears: Bears) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of a round in which workers look at such parts of the data (candidates, workers), 0 having nothing to do.

        Returns:
            how long it takes, (candidates,); who is late at its end; for whom the master has had to wait.
        """
        asked = work > 0
        times = np.where(asked, self.seconds[round % len(self.seconds)] + self.slope * work, -np.inf)
        last = times.max(axis=-1)
        deadline = (1 + self.mu) * np.where(asked, times, np.inf).min(axis=-1)
        late = times > deadline[:, None]
        waits = ~bears(late)
        end = np.where(waits, self._wait(times, late, bears) if waits.any() else last, np.minimum(deadline, last))
        end = np.where(asked.any(axis=-1), end, 0.0)
        return end, times > end[:, None], waits

    def _wait(self, times: np.ndarray, late: np.ndarray, bears: Bears) -> np.ndarray:
        """The first answer with which a code can bear those still late, found by halving; or the last answer."""
        if self.wait_out == "all":
            return times.max(axis=-1)
        ordered = np.sort(times, axis=-1)
        high = np.full(len(times), times.shape[1] - 1)
        low = np.minimum((~late).sum(axis=-1), high)
        while (low < high).any():
            middle = (low + high) // 2
            good = bears(times > np.take_along_axis(ordered, middle[:, None], axis=-1))
            low, high = np.where(good | (low >= high), low, middle + 1), np.where(good, np.minimum(high, middle), high)
        return np.take_along_axis(ordered, low[:, None], axis=-1)[:, 0]


@dataclass
class Totals:
    """What a run has come to, for each candidate."""

    seconds: np.ndarray
    waited_out: np.ndarray
    """Rounds in which the master has waited for more than the deadline."""
    straggled: np.ndarray
    """Answers that it has done without."""

    @classmethod
    def of(cls, candidates: int) -> Totals:
        """Nothing yet."""
        return cls(np.zeros(candidates), np.zeros(candidates, dtype=int), np.zeros(candidates, dtype=int))

    def add(self, seconds: np.ndarray, late: np.ndarray, waits: np.ndarray) -> np.ndarray:
        """A round; returns who was late at its end."""
        self.seconds += seconds
        self.waited_out += waits
        self.straggled += late.sum(axis=-1)
        return late


class History:
    """Who has straggled in the last rounds, side by side."""

    def __init__(self, pattern: Bursty, candidates: int, workers: int) -> None:
        self.pattern = pattern
        self.past = np.zeros((candidates, 0, workers), dtype=bool)
        self.memory = pattern.memory(self.past)

    def admits(self, late: np.ndarray) -> np.ndarray:
        """Whether each candidate's pattern goes on conforming."""
        return self.pattern.allows(self.memory, late)

    def end(self, late: np.ndarray) -> None:
        """The round is over."""
        self.past = np.concatenate([self.past, late[:, None]], axis=1)[:, -self.pattern.span + 1 :]
        self.memory = self.pattern.memory(self.past)
