"""Which part of a matrix has a memory: FRUGAL's projectors.

A tensor (K, *shape) of K clients is looked at as (K, m, n). Of one of the two inner axes some places are chosen, each
client's own; with m = 1 that is any entries at all, or everything or nothing. Or the part is a subspace.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import numpy as np
import torch
from torch import Tensor


class Projector(ABC):
    """P of each client: of a matrix its part, and of a part the matrix that has nothing else."""

    flat: bool = False
    """Whether a matrix is looked at as one row, (1, m n)."""

    def view(self, tensor: Tensor, stacked: bool) -> Tensor:
        """(K, m, n): m is the tensor's first axis, n all others; K = 1 of one client. A view, if it is contiguous."""
        lead = tensor if stacked else tensor[None]
        return lead.reshape(len(lead), 1 if self.flat or lead.dim() < 2 else lead.shape[1], -1)

    @abstractmethod
    def choose(self, slopes: Tensor, density: float, chances: Sequence[np.random.Generator]) -> Tensor:
        """What is to be remembered of each client's choice, (K, ...), where gradients (K, m, n) are as they are."""

    @abstractmethod
    def take(self, values: Tensor, chosen: Tensor) -> Tensor:
        """P values: what of (K, m, n) has a memory."""

    @abstractmethod
    def lift(self, part: Tensor, chosen: Tensor, values: Tensor) -> Tensor:
        """P^+ part: (K, m, n) like `values`."""


@dataclass(frozen=True)
class Places(Projector):
    """Some columns, rows or entries, or whole tensors: floor(density x how many there are)."""

    axis: int
    """Of (K, m, n), the one of which places are chosen."""
    flat: bool = False

    def choose(self, slopes: Tensor, density: float, chances: Sequence[np.random.Generator]) -> Tensor:
        """Places (K, c) in order, int32."""
        count = slopes.shape[self.axis]
        rows = [np.sort(chance.permutation(count)[: share(density, count)]) for chance in chances]
        return torch.from_numpy(np.stack(rows)).to(slopes.device, torch.int32)

    def take(self, values: Tensor, chosen: Tensor) -> Tensor:
        """(K, m, c) or (K, c, n)."""
        return values.gather(self.axis, self._spread(values, chosen))

    def lift(self, part: Tensor, chosen: Tensor, values: Tensor) -> Tensor:
        """Zero in all other places."""
        return torch.zeros_like(values).scatter_(self.axis, self._spread(values, chosen), part)

    def _spread(self, values: Tensor, chosen: Tensor) -> Tensor:
        other = 3 - self.axis
        shape = [len(chosen), 0, 0]
        shape[self.axis], shape[other] = chosen.shape[1], values.shape[other]
        return chosen.to(torch.int64).unsqueeze(other).expand(shape)


class Singular(Projector):
    """The space of the gradient's first singular vectors on its shorter side, as GaLore's: floor(density x side)."""

    def choose(self, slopes: Tensor, density: float, chances: Sequence[np.random.Generator]) -> Tensor:
        """An orthonormal basis, (K, m, r), or (K, r, n) if n < m."""
        rank = share(density, min(slopes.shape[1:]))
        left, _, right = torch.linalg.svd(slopes, full_matrices=False)
        return left[:, :, :rank].clone() if slopes.shape[1] <= slopes.shape[2] else right[:, :rank].clone()

    def take(self, values: Tensor, chosen: Tensor) -> Tensor:
        """(K, r, n) or (K, m, r)."""
        return chosen.mT @ values if values.shape[1] <= values.shape[2] else values @ chosen.mT

    def lift(self, part: Tensor, chosen: Tensor, values: Tensor) -> Tensor:
        """Back from the basis."""
        return chosen @ part if values.shape[1] <= values.shape[2] else part @ chosen


PROJECTORS: dict[str, Projector] = {
    "columns": Places(axis=2),
    "rows": Places(axis=1),
    "randk": Places(axis=2, flat=True),
    "blocks": Places(axis=1, flat=True),
    "svd": Singular(),
}


def share(density: float, count: int) -> int:
    """How many that is, rounded down; not fooled by 0.29 x 100 = 28.999...

    >>> share(0.29, 100), share(0.2, 4)
    (29, 0)
    """
    return floor(round(density * count, 9))


def blocks(density: float, tensors: int, chance: np.random.Generator) -> set[int]:
    """Which tensors have a memory as a whole: round(density x their number)."""
    return set(chance.permutation(tensors)[: round(density * tensors)].tolist())
