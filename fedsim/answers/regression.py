"""How rows of a matrix are found from its columns: exactly, or by a few steps on a sketched problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Generator, Tensor

from fedsim.models.low_rank import regressed
from fedsim.wire.sketches import signs

Count = Annotated[int, Field(ge=1)]


class Regression(Protocol):
    """Finds u = argmin |known (V u - values)| for every row, more or less."""

    def flops(self, entries: int, rows: int, rank: int) -> int:
        """Floating-point operations for so many known entries in so many rows."""
        ...

    def solve(self, factor: Tensor, values: Tensor, known: Tensor, draw: Generator) -> Tensor:
        """Float64 (B, k), as `models.low_rank.regressed`; `draw` is the same for all rows of a round."""
        ...


@dataclass(frozen=True)
class Exact:
    """By normal equations."""

    def flops(self, entries: int, rows: int, rank: int) -> int:
        """O(entries k^2): a symmetric matrix and a vector of sums, and a solution a row."""
        return entries * (rank * (rank + 1) + 2 * rank) + rows * rank**3 // 3

    def solve(self, factor: Tensor, values: Tensor, known: Tensor, draw: Generator) -> Tensor:
        """See `Regression`."""
        return regressed(factor, values, known)


@dataclass(frozen=True)
class Sketched:
    """With A the known rows of V: QR of a sketch S A, then gradient descent on min |A R^-1 z - y|, u = R^-1 z.

    The solver of robust alternating minimisation (Gu, Song, Yin and Zhang, 2302.11068), O(entries k) an iteration. S is
    a count sketch of `rows` rows whose places are dealt out evenly, so that with as many rows as columns it loses
    nothing. The step is the best along the gradient, which is 1 where the preconditioner is perfect and needs no bound
    on the sketch (ours).
    """

    rows: Count
    iterations: Annotated[int, Field(ge=0)]
    start: Literal["sketch", "zero"] = "sketch"
    """From the sketched problem's own solution, or from 0, whose error then stays however good V has become."""

    def flops(self, entries: int, rows: int, rank: int) -> int:
        """Sketching and QR, the first residual, and two products with A an iteration."""
        begin = 2 * entries * rank * (2 if self.start == "sketch" else 1)
        return begin + rows * 2 * self.rows * rank**2 + self.iterations * 4 * entries * rank

    def solve(self, factor: Tensor, values: Tensor, known: Tensor, draw: Generator) -> Tensor:
        """See `Regression`."""
        a, y = known.unsqueeze(2) * factor, values.unsqueeze(2)
        sketched = self.sketch(torch.cat((a, y), 2), draw)
        q, r = torch.linalg.qr(sketched[:, :, :-1])
        basis = torch.linalg.pinv(r)
        z = q.mT @ sketched[:, :, -1:] if self.start == "sketch" else torch.zeros_like(basis[:, :, :1])
        residual = y - a @ (basis @ z)
        for _ in range(self.iterations):
            slope = basis.mT @ (a.mT @ residual)
            ahead = a @ (basis @ slope)
            step = slope.square().sum(1, keepdim=True) / ahead.square().sum(1, keepdim=True).clamp_min(1e-300)
            z, residual = z + step * slope, residual - step * ahead
        return (basis @ z).squeeze(2)

    def sketch(self, rows: Tensor, draw: Generator) -> Tensor:
        """S times each of (B, n, c): (B, rows, c)."""
        size = rows.shape[1]
        place, sign = torch.randperm(size, generator=draw).to(rows.device) % self.rows, signs(size, draw).to(rows)
        found = rows.new_zeros(len(rows), self.rows, rows.shape[2])
        return found.index_add_(1, place, sign.unsqueeze(1) * rows)
