"""A matrix of low rank, some of whose entries are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from fedsim.data.dataset import Count, Dataset
from fedsim.data.partitions import Iid, Partition
from fedsim.rng import stream


@dataclass(frozen=True)
class LowRank:
    """Synthetic: M = A B^T with normal A and B, each entry known with the chance `observed`; an example is a row.

    Inputs (3, columns) are a row's known values, which are known, and which are asked for; labels are the values that
    are asked for, 0 elsewhere. Of training examples those known are, of test examples, the same rows, all others. M is
    scaled so that the relative error of what is held out, |P(M' - M)| / |P(M)|, is sqrt(2 loss).
    """

    seed: int
    """Given by the run."""
    rows: Count
    columns: Count
    rank: Count
    observed: Annotated[float, Field(gt=0, lt=1)]
    partition: Partition = Iid()

    def load(self, folders: Sequence[Path] = ()) -> Dataset:
        """Inputs float32 (rows, 3, columns), labels float32 (rows, columns), for training and for testing."""
        sides = {"rows": self.rows, "columns": self.columns}
        factors = [
            stream(self.seed, "low rank", name).standard_normal((size, self.rank)) for name, size in sides.items()
        ]
        known = stream(self.seed, "observed").random((self.rows, self.columns)) < self.observed
        matrix = factors[0] @ factors[1].T
        matrix /= np.sqrt((matrix[~known] ** 2).sum() / self.rows)
        return Dataset(*self._examples(matrix, known, known), *self._examples(matrix, known, ~known), self.columns)

    def _examples(self, matrix: np.ndarray, known: np.ndarray, asked: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        x = np.stack([matrix * known, known, asked], axis=1)
        return torch.from_numpy(x).float(), torch.from_numpy(matrix * asked).float()
