"""M-SGC: most of the data once, with time for a second attempt; the rest coded, so that no attempt is missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from fedsim.coding.code import Chunk, Code, Combination, MiniTask, Tasks
from fedsim.coding.matrices import Kind, coefficients, decoding
from fedsim.fleet.patterns import Bursty, Count, Some


def multiplexed_load(workers: int, burst: int, window: int, stragglers: int) -> float:
    """L: (lambda + 1) (W - 1 + B) / (n (B + (W - 1) (lambda + 1))), and (W - 1 + B) / (n (W - 1)) for lambda = n.

    >>> round(multiplexed_load(256, burst=1, window=2, stragglers=27), 6)
    0.007543
    """
    slots, copies = window - 1 + burst, stragglers + 1
    if stragglers == workers:
        return slots / (workers * (window - 1))
    return copies * slots / (workers * (burst + (window - 1) * copies))


def least_load(workers: int, burst: int, window: int, stragglers: int) -> float:
    """What no code that bears (B, W, lambda)-bursty stragglers can go below, for lambda < n.

    (W - 1 + B) / (n (W - 1) + B (n - lambda)): Krishnan, Ebrahimi and Khisti (ICLR 2023).

    >>> round(least_load(256, burst=1, window=2, stragglers=27), 6)
    0.004124
    """
    return (window - 1 + burst) / (workers * (window - 1) + burst * (workers - stragglers))


@dataclass(kw_only=True)
class Multiplexed(Code):
    """Multiplexed-SGC of Krishnan, Ebrahimi and Khisti, Sequential Gradient Coding (ICLR 2023), with 0 < B < W.

    Bears (B, W, lambda)-bursty stragglers with a delay of W - 2 + B rounds. A worker's slot k in round r belongs to job
    r - k. Slots 0 to W - 2 are first attempts at the worker's W - 1 own chunks of that job (D1, which nobody else has).
    In slot W - 1 + m, m < B, whoever has delivered them all sends its coded sum of group m (D2, whose n chunks are
    protected by a gradient code for lambda stragglers), and whoever has not tries its earliest missing own chunk again.
    """

    burst: Count
    """B: how many rounds a straggler's rounds within a window may span."""
    window: Count
    """W: rounds."""
    stragglers: Some
    """Lambda: how many may straggle within a window."""
    kind: Kind = "cyclic"
    """Of the gradient code inside."""

    @property
    def delay(self) -> int:
        """W - 2 + B."""
        return self.window - 2 + self.burst

    @property
    def load(self) -> float:
        """See `multiplexed_load`."""
        return multiplexed_load(self.workers, self.burst, self.window, self.stragglers)

    @property
    def groups(self) -> int:
        """Of D2: B, or none where everybody may straggle."""
        return self.burst if self.stragglers < self.workers else 0

    @property
    def chunks(self) -> Sequence[Chunk]:
        """Owner by owner: W - 1 chunks of D1, (lambda + 1) / C of its data each, and B of D2, 1 / C each."""
        shares = [self.stragglers + 1.0] * (self.window - 1) + [1.0] * self.groups
        bounds = [bound / sum(shares) for bound in accumulate(shares, initial=0.0)]
        bounds[-1] = 1.0
        return [Chunk(owner, start, end) for owner in range(self.workers) for start, end in pairwise(bounds)]

    def prepare(self) -> None:
        """Make the workers' own chunks and the coded groups."""
        if not self.burst < self.window:
            raise ValueError(f"burst has to be below window, not {self.burst} with window {self.window}")
        if self.stragglers > self.workers:
            raise ValueError(f"of {self.workers} workers {self.stragglers} cannot straggle")
        self.pattern = Bursty(self.burst, self.window, self.stragglers)
        first, own = self.window - 1, self.window - 1 + self.groups
        starts = range(0, self.workers * own, own)
        self.own = [[Combination((start + k,), (1.0,), coded=False) for k in range(first)] for start in starts]
        self.matrix = coefficients(self.kind, self.workers, self.stragglers, self.seed) if self.groups else np.eye(0)
        self.coded = [
            [Combination.of(row, [start + first + group for start in starts]) for row in self.matrix]
            for group in range(self.groups)
        ]

    def plan(self, round: int) -> list[Tasks]:
        """Every worker's slots."""
        slots = [(k, round - k) for k in range(self.delay + 1) if round - k in self.delivered]
        return [
            tuple(task for k, job in slots for task in self._slot(worker, k, job)) for worker in range(self.workers)
        ]

    def _slot(self, worker: int, k: int, job: int) -> Tasks:
        """What it has to do in slot k."""
        if k < self.window - 1:
            return (MiniTask(job, self.own[worker][k]),)
        missing = next((own for own in self.own[worker] if own not in self.delivered[job]), None)
        if missing is not None:
            return (MiniTask(job, missing),)
        return (MiniTask(job, self.coded[k - self.window + 1][worker]),) if self.groups else ()

    def conforms(self) -> bool:
        """Whether the pattern stays bursty."""
        return self.bears(self.pattern)

    def complete(self, job: int) -> bool:
        """Everybody's own chunks, and n - lambda coded sums of every group."""
        have = self.delivered[job]
        return all(own in have for mine in self.own for own in mine) and all(
            sum(row in have for row in group) >= self.workers - self.stragglers for group in self.coded
        )

    def decode(self, job: int) -> dict[Combination, float]:
        """Own chunks as they are; every group like a gradient code."""
        weights = {own: 1.0 for mine in self.own for own in mine}
        for group in self.coded:
            heard = np.array([worker for worker, row in enumerate(group) if row in self.delivered[job]])
            values = decoding(self.matrix, heard).tolist()
            weights |= {group[worker]: value for worker, value in zip(heard, values, strict=True)}
        return weights
