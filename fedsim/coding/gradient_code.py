"""Gradient coding: every chunk lies with several workers, and any few who straggle are not missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedsim.coding.code import Chunk, Code, Combination, MiniTask, Tasks, whole_parts
from fedsim.coding.matrices import Kind, bernoulli, coefficients, decoding
from fedsim.fleet.patterns import Count, Some


@dataclass(kw_only=True)
class MatrixCode(Code):
    """One job a round, and for every worker one row of a matrix (n, n)."""

    @property
    def delay(self) -> int:
        """None."""
        return 0

    @property
    def chunks(self) -> Sequence[Chunk]:
        """One an owner."""
        return whole_parts(self.workers)

    def use(self, matrix: np.ndarray) -> None:
        """Make the combinations of its rows."""
        self.matrix = matrix
        self.rows = [Combination.of(row, range(self.workers)) for row in matrix]
        self.place = {combination: worker for worker, combination in enumerate(self.rows)}

    def plan(self, round: int) -> list[Tasks]:
        """Everybody the new job."""
        return [(MiniTask(round, row),) if self.exists(round) and row.chunks else () for row in self.rows]

    def decode(self, job: int) -> dict[Combination, float]:
        """By least squares over all that was delivered."""
        heard = sorted(self.delivered[job], key=self.place.__getitem__)
        weights = decoding(self.matrix, np.array([self.place[combination] for combination in heard]))
        return dict(zip(heard, weights.tolist(), strict=True))


@dataclass(kw_only=True)
class GradientCode(MatrixCode):
    """GC: exact with any so many `stragglers` in a round; every worker looks at that many chunks and one more.

    Tandon et al., Gradient Coding (ICML 2017): `cyclic`, or fractional `repetition` whose groups of s + 1 workers share
    s + 1 chunks, where anybody who is left of each group is enough. The public code of Sequential Gradient Coding bears
    one straggler fewer at the same load; this one bears s.
    """

    stragglers: Some
    """S: how many may be missing in a round."""
    kind: Kind = "cyclic"

    @property
    def load(self) -> float:
        """(s + 1) / n."""
        return (self.stragglers + 1) / self.workers

    def prepare(self) -> None:
        """Draw the matrix."""
        self.use(coefficients(self.kind, self.workers, self.stragglers, self.seed))

    def conforms(self) -> bool:
        """Whether the job can be decoded from those who were heard."""
        return all(self.complete(job) for job in self.delivered)

    def complete(self, job: int) -> bool:
        """Any n - s rows are enough; of a repetition code, one of each group."""
        if len(self.delivered[job]) >= self.workers - self.stragglers:
            return True
        return self.kind == "repetition" and len(self._groups(job)) == self.workers // (self.stragglers + 1)

    def decode(self, job: int) -> dict[Combination, float]:
        """Of a repetition code, the first of each group."""
        return super().decode(job) if self.kind == "cyclic" else dict.fromkeys(self._groups(job).values(), 1.0)

    def _groups(self, job: int) -> dict[int, Combination]:
        """The first row that was delivered of each group."""
        found: dict[int, Combination] = {}
        for combination in sorted(self.delivered[job], key=self.place.__getitem__):
            found.setdefault(self.place[combination] // (self.stragglers + 1), combination)
        return found


@dataclass(kw_only=True)
class BernoulliCode(MatrixCode):
    """Approximate gradient coding: every chunk lies with `copies` workers on average, and the slowest do not count.

    Charles, Papailiopoulos and Ellenberg, Approximate Gradient Coding via Sparse Random Graphs (2017), decoded by least
    squares: the combination of those heard that comes nearest to the gradient.
    """

    copies: Count
    """How many workers hold a chunk, on average."""
    ignore: Some
    """How many are not waited for."""

    @property
    def exact(self) -> bool:
        """No."""
        return False

    @property
    def load(self) -> float:
        """On average."""
        return self.copies / self.workers

    def prepare(self) -> None:
        """Draw the matrix."""
        if not (self.copies <= self.workers and self.ignore < self.workers):
            raise ValueError(f"{self.workers} workers cannot hold {self.copies} copies and ignore {self.ignore}")
        self.use(bernoulli(self.workers, self.copies, self.seed))

    def conforms(self) -> bool:
        """Whether enough were heard."""
        return int(self.late.sum()) <= self.ignore

    def complete(self, job: int) -> bool:
        """Likewise: whatever was heard by the end of its round."""
        return True
