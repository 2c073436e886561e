"""A matrix of low rank of which some entries are known: its columns are a model, its rows are found from them."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

VALUE, KNOWN, ASKED = range(3)
"""What stands where in an example (3, columns): a row's known values, else 0; which are known; which are asked for."""


def regressed(factor: Tensor, values: Tensor, known: Tensor) -> Tensor:
    """Of each row u = argmin |known (V u - values)|, the shortest where there are several: float64 (B, k).

    `factor` is V (n, k); `values` are 0 where they are not `known` (1 or 0), (B, n) both. By normal equations, whose
    condition is squared: all are to be float64.
    """
    gram = (known @ outer(factor).flatten(1)).unflatten(1, (factor.shape[1], -1))
    return (torch.linalg.pinv(gram, hermitian=True) @ (values @ factor).unsqueeze(2)).squeeze(2)


def outer(rows: Tensor) -> Tensor:
    """Each row's u u^T, (B, k, k)."""
    return rows.unsqueeze(2) * rows.unsqueeze(1)


class LowRank(nn.Module):
    """M = U V^T of which V (columns, rank) is the parameter, orthonormal at first; a row's u is found from V.

    An example is a row of M as `data.low_rank` has it; its scores are V u where entries are asked for, 0 elsewhere,
    with the u that fits the known entries best. Gradients hold u fixed: those of known entries are then gradients of
    the least loss over u (variable projection: Golub and Pereyra, 1973).
    """

    def __init__(self, columns: int, rank: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.linalg.qr(torch.randn(columns, rank)).Q.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, columns) of rows (B, 3, columns); u in float64."""
        with torch.no_grad():
            rows = regressed(self.factor.double(), x[:, VALUE].double(), x[:, KNOWN].double())
        return rows.to(x.dtype) @ self.factor.T * x[:, ASKED]


def low_rank(shape: tuple[int, ...], classes: int, rank: Annotated[int, Field(ge=1)]) -> nn.Module:
    """V of a matrix of so low a `rank`. ValueError if the data are no rows of a matrix, or have too few columns."""
    if shape != (3, classes):
        raise ValueError(f"low_rank completes rows of a matrix, as data: low_rank has them, not examples {shape}")
    if rank > classes:
        raise ValueError(f"a matrix of {classes} columns has no rank of {rank}")
    return LowRank(classes, rank)
