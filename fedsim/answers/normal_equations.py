"""Rows of a matrix answer with the normal equations of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fedsim.answers.regression import Regression
from fedsim.models.low_rank import KNOWN, VALUE, outer
from fedsim.training import Trainer
from fedsim.wire.codec import generator
from fedsim.work import LocalResult, LocalTask

if TYPE_CHECKING:
    from fedsim.workload import Workload


@dataclass(frozen=True)
class NormalEquations:
    """For each column j the sums of u u^T and of u m_j over the client's rows with a known m_j; U is found from V.

    Float64 (n, k (k + 1) / 2 + k), flat: sums, so that it does not matter how rows are shared out. Rows with fewer than
    k known entries say nothing. From version 0, if it is a `spectral` start, X^T X G instead, with X the known entries
    and G as many normal columns, the same for all clients, by the seed.
    """

    trainer: Trainer
    regression: Regression
    spectral: bool
    trains: ClassVar[bool] = False

    @property
    def columns(self) -> int:
        """N."""
        return self.trainer.layout.shapes[0][0]

    @property
    def rank(self) -> int:
        """K."""
        return self.trainer.layout.shapes[0][1]

    @property
    def width(self) -> int:
        """Numbers for each column."""
        return self.rank * (self.rank + 3) // 2

    def work(self, work: Workload) -> Workload:
        """8 bytes a number; products of what is known alone, the start priced as any other round."""
        known = [int(self.trainer.x[part, KNOWN].sum()) for part in self.trainer.parts.indices]
        sums = 2 * self.width
        flops = [
            self.regression.flops(entries, held, self.rank) + sums * entries
            for entries, held in zip(known, self.trainer.parts.sizes, strict=True)
        ]
        return replace(
            work, seen=[-(-own // max(1, int(work.flops))) for own in flops], up=8 * self.columns * self.width
        )

    def __call__(self, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """One client after another."""
        return [self.answer(task) for task in tasks]

    def answer(self, task: LocalTask) -> LocalResult:
        """With the mean over rows of half the squared error on what is known."""
        x = self.trainer.x[self.trainer.parts.held(task.client, task.ordinal)].double()
        values, known = x[:, VALUE], x[:, KNOWN]
        factor = self.trainer.layout.unflatten(task.params)["factor"].double()
        rows = self.regression.solve(factor, values, known, generator(self.trainer.seed, "sketched rows", task.version))
        loss = ((rows @ factor.T) * known - values).square().sum() / (2 * max(1, len(x)))
        sums = (
            values.T @ (values @ self.test_columns())
            if self.spectral and not task.version
            else self.sums(rows, values, known)
        )
        return LocalResult(sums.flatten(), float(loss))

    def sums(self, rows: Tensor, values: Tensor, known: Tensor) -> Tensor:
        """Over rows of U (B, k): (n, width)."""
        enough = (known.sum(1) >= self.rank).unsqueeze(1)
        rows = rows * enough
        lower = torch.tril_indices(self.rank, self.rank)
        return torch.cat((known.T @ outer(rows)[:, lower[0], lower[1]], values.T @ rows), 1)

    def equations(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """What they are for each column: matrices (n, k, k) and right-hand sides (n, k)."""
        below, right = sums.view(self.columns, self.width).split([self.width - self.rank, self.rank], dim=1)
        lower = torch.tril_indices(self.rank, self.rank)
        matrices = sums.new_zeros(self.columns, self.rank, self.rank)
        matrices[:, lower[0], lower[1]] = matrices[:, lower[1], lower[0]] = below
        return matrices, right

    def test_columns(self) -> Tensor:
        """G, (n, width)."""
        draw = generator(self.trainer.seed, "spectral start")
        drawn = torch.randn(self.columns, self.width, generator=draw, dtype=torch.float64)
        return drawn.to(self.trainer.x.device)
