"""Recorded walks on a grid, good and random ones, for learning from what others did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from fedsim.data.dataset import Count, Dataset
from fedsim.data.partitions import Parts, check_clients
from fedsim.errors import ScenarioError
from fedsim.rng import stream
from fedsim.units import Probability

MOVES = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
"""Down, right, up, left."""


@dataclass(frozen=True)
class Walks:
    """Whole walks, as many to each client: dealt at random, or the good ones to the first clients (`quality`).

    The cell where a walk ends is nobody's example; it stands after the walk's last one, as what follows that.
    """

    lengths: Sequence[int]
    """Cells of each walk, in the order of the examples; the good ones come first."""
    deal: Literal["random", "quality"]
    cover: ClassVar[bool] = False

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """ScenarioError if there are more clients than walks."""
        check_clients(dataset, clients)
        if clients > len(self.lengths):
            raise ScenarioError(f"{clients} clients share {len(self.lengths)} walks, so some would have none")
        ends = np.cumsum(self.lengths)
        order = np.arange(len(ends)) if self.deal == "quality" else stream(seed, "partition").permutation(len(ends))
        walks = [np.arange(end - length, end - 1) for end, length in zip(ends.tolist(), self.lengths, strict=True)]
        return Parts([np.concatenate([walks[n] for n in sorted(own)]) for own in np.array_split(order, clients)])


@dataclass(frozen=True)
class GridWorld:
    """A square of `side` cells, from one of which a walk starts and in the last of which it ends. Synthetic.

    Examples are cells, as one of side^2 numbers that is 1; labels are the moves that were made there: down, right, up,
    left; whoever moves against the wall stays. A share of the walks is `good`, which is as short as can be, the others
    move at random and end after `patience` moves too. What follows an example is the next one. For testing there is
    every cell but the last, with one of its best moves, as often there are two.
    """

    seed: int
    """Given by the run."""
    side: Annotated[int, Field(ge=2)] = 7
    walks: Count = 60
    good: Probability = 1 / 6
    patience: Count = 100
    deal: Literal["random", "quality"] = "random"

    @property
    def partition(self) -> Walks:
        """Walks, dealt out."""
        return Walks([len(cells) for cells, _ in self._recorded()], self.deal)

    def load(self, folders: Sequence[Path] = ()) -> Dataset:
        """Walk."""
        cells, moves = (np.concatenate(parts) for parts in zip(*self._recorded(), strict=True))
        everywhere = np.arange(self.side**2 - 1)
        best = np.where(everywhere // self.side < self.side - 1, 0, 1)
        codes = torch.eye(self.side**2)
        return Dataset(codes[cells], torch.from_numpy(moves), codes[everywhere], torch.from_numpy(best), outputs=4,
                       walks=True)  # fmt: skip

    def _recorded(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each walk its cells, with the one where it ends, and the moves, with one more that nobody makes."""
        for walk in range(self.walks):
            draw, good = stream(self.seed, "walk", walk), walk < round(self.good * self.walks)
            cells, moves = [int(draw.integers(self.side**2 - 1))], list[int]()
            while cells[-1] != self.side**2 - 1 and (good or len(moves) < self.patience):
                moves.append(self._move(draw, cells[-1]) if good else int(draw.integers(4)))
                cells.append(after(cells[-1], moves[-1], self.side))
            yield np.array(cells), np.array([*moves, 0])

    def _move(self, draw: np.random.Generator, cell: int) -> int:
        """One of the best moves."""
        row, column = divmod(cell, self.side)
        best = [move for move, fine in enumerate((row < self.side - 1, column < self.side - 1)) if fine]
        return best[draw.integers(len(best))]


def after(cell: int, move: int, side: int) -> int:
    """The cell that a move leads to.

    >>> after(0, 0, side=7), after(0, 3, side=7), after(48, 2, side=7)
    (7, 0, 41)
    """
    row, column = np.clip(np.array(divmod(cell, side)) + MOVES[move], 0, side - 1).tolist()
    return row * side + column
