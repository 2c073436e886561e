"""SR-SGC: a gradient code for fewer stragglers than there may be; what was missed is repeated some rounds later."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fedsim.coding.code import MiniTask, Tasks
from fedsim.coding.gradient_code import MatrixCode
from fedsim.coding.matrices import Kind, coefficients
from fedsim.fleet.patterns import Bursty, Count, Some


def repeated_stragglers(burst: int, window: int, stragglers: int) -> int:
    """s of the gradient code inside: B lambda / (W - 1 + B), rounded up.

    >>> repeated_stragglers(burst=2, window=3, stragglers=23)
    12
    """
    return -(-burst * stragglers // (window - 1 + burst))


@dataclass(kw_only=True)
class SelectiveRepeat(MatrixCode):
    """Selective-Repeat-SGC of Krishnan, Ebrahimi and Khisti, Sequential Gradient Coding (ICLR 2023).

    Bears (B, W, lambda)-bursty stragglers, W = x B + 1, with a delay of B rounds and the load (s + 1) / n of a gradient
    code for s = ceil(B lambda / (W - 1 + B)). If fewer than n - s have answered job t - B in its own round, the first
    of the others, so many as are missing, repeat it in round t; everybody else works on job t. Rounds in which nobody
    had to repeat and at most s straggled have harmed nobody and do not count.
    """

    burst: Count
    """B: how many rounds a straggler's rounds within a window may span."""
    window: Count
    """W: rounds."""
    stragglers: Some
    """Lambda: how many may straggle within a window."""
    kind: Kind = "cyclic"
    """Of the gradient code inside."""
    answered: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    """Who has answered a job in its own round, bool (workers,), of the last `burst` rounds."""
    harmful: list[np.ndarray] = field(default_factory=list, init=False, repr=False)
    """As `past`, without those rounds that do not count."""
    repeats: bool = field(default=False, init=False)
    """Whether somebody repeats in this round."""

    @property
    def delay(self) -> int:
        """B."""
        return self.burst

    @property
    def s(self) -> int:
        """How many stragglers the gradient code inside survives."""
        return repeated_stragglers(self.burst, self.window, self.stragglers)

    @property
    def load(self) -> float:
        """(s + 1) / n."""
        return (self.s + 1) / self.workers

    def prepare(self) -> None:
        """Draw the matrix."""
        if self.window <= self.burst or (self.window - 1) % self.burst:
            raise ValueError(f"window has to be a multiple of burst and one more, such as {self.burst + 1}, "
                             f"not {self.window} with burst {self.burst}")  # fmt: skip
        if self.stragglers > self.workers:
            raise ValueError(f"of {self.workers} workers {self.stragglers} cannot straggle")
        self.pattern = Bursty(self.burst, self.window, self.stragglers)
        self.use(coefficients(self.kind, self.workers, self.s, self.seed))

    def plan(self, round: int) -> list[Tasks]:
        """Those who repeat job t - B, and everybody else the new job."""
        before = round - self.burst
        repeaters = set(self._missing(before) if before in self.delivered else [])
        self.repeats = bool(repeaters)
        jobs = [before if worker in repeaters else round for worker in range(self.workers)]
        return [(MiniTask(job, row),) if self.exists(job) else () for job, row in zip(jobs, self.rows, strict=True)]

    def _missing(self, job: int) -> list[int]:
        """The first of those who did not answer it, so many as are missing."""
        others = np.flatnonzero(~self.answered[job]).tolist()
        return others[: max(0, self.workers - self.s - int(self.answered[job].sum()))]

    @property
    def harmless(self) -> bool:
        """Whether the round may end without a trace."""
        return not self.repeats and int(self.late.sum()) <= self.s

    def conforms(self) -> bool:
        """Whether the pattern without harmless rounds stays bursty."""
        return self.harmless or self.bears(self.pattern, self.harmful)

    def end(self) -> list[int]:
        """Remember who has answered the new job, and whether the round has harmed."""
        self.answered[self.round] = np.array([row in self.delivered.get(self.round, ()) for row in self.rows])
        self.answered.pop(self.round - self.burst, None)
        self.harmful.append(self.late & (not self.harmless))
        return super().end()

    def complete(self, job: int) -> bool:
        """Any n - s rows are enough."""
        return len(self.delivered[job]) >= self.workers - self.s
