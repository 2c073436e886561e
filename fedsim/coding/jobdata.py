"""Which examples a job's chunks hold, and how many: whatever the code, a job's batch is the same."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np

from fedsim.coding.code import Chunk
from fedsim.rng import stream


class JobData:
    """Deals every owner's examples into batches, and cuts each batch where the code cuts the owner's data.

    An owner's examples are shuffled once and written into a table of `batch` rows, a column a batch; what fills no
    whole column is left out. A chunk is a run of the table, read row by row, and so has its share of every batch, give
    or take one example. Each pass of a model over an owner's batches has an order of its own.

    Args:
        held: how many examples each owner holds.
        batch: how many of them a job takes; an owner with fewer gives all.
        chunks: into which the code cuts the data.
        models: job t is number t // models of model t mod models.
        seed: names the shuffles together with owner, model and pass.
    """

    def __init__(self, held: Sequence[int], batch: int, chunks: Sequence[Chunk], models: int, seed: int) -> None:
        sizes = np.array([min(batch, count) for count in held])
        self.columns = np.array([count // max(1, size) or 1 for count, size in zip(held, sizes, strict=True)])
        self.models, self.seed = models, seed
        self.examples = int(sizes.sum())
        """In a job."""
        self.cells = sizes * self.columns
        """In each owner's table."""
        self.owners = np.array([chunk.owner for chunk in chunks])
        self.bounds = np.array([[chunk.start, chunk.end] for chunk in chunks]) * self.cells[self.owners, None]
        self.bounds = np.rint(self.bounds).astype(np.int64)
        self.shuffled, self.order, self.counts = cache(self._shuffled), cache(self._order), lru_cache(64)(self._counts)

    def _shuffled(self, owner: int) -> np.ndarray:
        """Places in the owner's part, (cells,)."""
        held = int(self.cells[owner])
        return stream(self.seed, "job table", owner).permutation(held)

    def _order(self, model: int, owner: int, epoch: int) -> np.ndarray:
        """Of the owner's columns."""
        return stream(self.seed, "job batches", model, owner, epoch).permutation(self.columns[owner])

    def column(self, job: int, owner: int) -> int:
        """Which of its batches an owner gives."""
        turn, model = divmod(job, self.models)
        epoch, place = divmod(turn, int(self.columns[owner]))
        return int(self.order(model, owner, epoch)[place])

    def _counts(self, job: int) -> np.ndarray:
        """How many examples each chunk has in this job, (chunks,)."""
        first, end = self._rows(job)
        return end - first

    def _rows(self, job: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the tables, from where to where each chunk meets its column."""
        column = np.array([self.column(job, owner) for owner in range(len(self.columns))])[self.owners, None]
        rows = -(-(self.bounds - column) // self.columns[self.owners, None])
        return rows[:, 0], rows[:, 1]

    def places(self, job: int, chunk: int) -> np.ndarray:
        """Where in its owner's part the chunk's examples of this job lie."""
        owner = int(self.owners[chunk])
        first, end = (int(bound[chunk]) for bound in self._rows(job))
        return self.shuffled(owner)[np.arange(first, end) * self.columns[owner] + self.column(job, owner)]

    def share(self, chunk: int) -> float:
        """What part of all data a chunk is."""
        return float(np.diff(self.bounds[chunk])[0] / max(1, self.cells.sum()))
