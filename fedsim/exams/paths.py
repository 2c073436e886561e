"""How far a policy walks on a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import numpy as np
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.data import Dataset
from fedsim.data.grid_world import after


@dataclass(frozen=True)
class Paths:
    """`extra_steps`: how many moves more than needed the likeliest moves take, a mean over all cells to start from.

    `arrived` is the share of cells from which they arrive; who goes round in a circle counts for side^2 moves. For
    data of `grid_world`.
    """

    def refuse(self, model: nn.Module, dataset: Dataset) -> None:
        """See `Exam`."""
        if not dataset.walks:
            raise ValueError("paths are walked on grid_world's cells")

    def grade(self, model: nn.Module, named: Mapping[str, Tensor], dataset: Dataset) -> dict[str, float]:
        """See `Exam`."""
        cells = dataset.x_test.shape[1]
        side = isqrt(cells)
        moves = functional_call(model, dict(named), (dataset.x_test,))[:, : dataset.outputs].argmax(1).tolist()
        taken = np.array([walked(moves, cell, side) for cell in range(cells - 1)])
        needed = np.array([2 * (side - 1) - sum(divmod(cell, side)) for cell in range(cells - 1)])
        return {"extra_steps": float((taken - needed).mean()), "arrived": float((taken < cells).mean())}


def walked(moves: list[int], cell: int, side: int) -> int:
    """Moves from a cell to the last one, but no more than there are cells.

    >>> walked([0, 1, 1], 0, side=2), walked([0, 0, 0], 0, side=2)
    (2, 4)
    """
    for count in range(side**2):
        if cell == side**2 - 1:
            return count
        cell = after(cell, moves[cell], side)
    return side**2
