"""Which part of a matrix has a memory: FRUGAL's projectors.

A tensor (K, *shape) of K clients is looked at as (K, m, n). Of one of the two inner axes some places are chosen, each
client's own; with m = 1 that is any entries at all, or everything or nothing. Or the part is a subspace.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Order = Literal["random", "ascending", "descending", "mirror"]
Move = Callable[[Tensor, Tensor], object]
"""Moves values in place by their gradients."""


class Projector(ABC):
    """P of each client: which part of a matrix has a memory."""

    flat: bool = False
    """Whether a matrix is looked at as one row, (1, m n)."""

    def view(self, tensor: Tensor, stacked: bool) -> Tensor:
        """(K, m, n): m is the tensor's first axis, n all others; K = 1 of one client. A view, if it is contiguous."""
        lead = (tensor if stacked else tensor[None]).contiguous()
        return lead.view(len(lead), 1 if self.flat or lead.dim() < 2 else lead.shape[1], -1)

    @abstractmethod
    def choose(self, slopes: Tensor, density: float, chances: Sequence[np.random.Generator]) -> Tensor:
        """What is to be remembered of each client's choice, (K, ...), where gradients (K, m, n) are as they are."""

    @abstractmethod
    def move(self, values: Tensor, slopes: Tensor, chosen: Tensor, full: Move, free: Move | None) -> None:
        """Move values (K, m, n) in place: `full` moves a copy of the part with a memory, `free` the rest."""


class Places(Projector):
    """Some columns, rows or entries, or whole tensors: floor(density x how many there are)."""

    axis: int
    """Of (K, m, n), the one of which places are chosen."""

    def choose(self, slopes: Tensor, density: float, chances: Sequence[np.random.Generator]) -> Tensor:
        """Places (K, c) in order, int32."""
        count = slopes.shape[self.axis]
        rows = [np.sort(chance.permutation(count)[: share(density, count)]) for chance in chances]
        return torch.from_numpy(np.stack(rows)).to(slopes.device, torch.int32)

    def move(self, values: Tensor, slopes: Tensor, chosen: Tensor, full: Move, free: Move | None) -> None:
        """See `Projector`. The free rule moves all, in passes without choosing; the part then takes its place."""
        places = self._spread(values, chosen)
        part = self._take(values, places)
        full(part, self._take(slopes, places))
        if free:
            free(values, slopes)
        self._put(values, places, part)

    @abstractmethod
    def _spread(self, values: Tensor, chosen: Tensor) -> Tensor:
        """Places as torch wants them to take and put."""

    @abstractmethod
    def _take(self, values: Tensor, places: Tensor) -> Tensor:
        """A copy of what is chosen, (K, ...)."""

    @abstractmethod
    def _put(self, values: Tensor, places: Tensor, part: Tensor) -> None:
        """Back to where it was taken."""


@dataclass(frozen=True)
class Columns(Places):
    """Of the last axis."""

    flat: bool = False
    axis = 2

    def _spread(self, values: Tensor, chosen: Tensor) -> Tensor:
        return chosen.to(torch.int64).unsqueeze(1).expand(-1, values.shape[1], -1)

    def _take(self, values: Tensor, places: Tensor) -> Tensor:
        return values.gather(2, places)

    def _put(self, values: Tensor, places: Tensor, part: Tensor) -> None:
        values.scatter_(2, places, part)


@dataclass(frozen=True)
class Rows(Places):
    """Of the middle axis: each is copied as a whole."""

    flat: bool = False
    axis = 1

    def _spread(self, values: Tensor, chosen: Tensor) -> Tensor:
        first = torch.arange(len(values), device=values.device) * values.shape[1]
        return (first[:, None] + chosen).flatten()

    def _take(self, values: Tensor, places: Tensor) -> Tensor:
        return values.flatten(0, 1).index_select(0, places).view(len(values), -1, values.shape[2])

    def _put(self, values: Tensor, places: Tensor, part: Tensor) -> None:
        values.flatten(0, 1).index_copy_(0, places, part.flatten(0, 1))


class Singular(Projector):
    """The space of the gradient's first singular vectors on its shorter side, as GaLore's: floor(density x side)."""

    def choose(self, slopes: Tensor, density: float, chances: Sequence[np.random.Generator]) -> Tensor:
        """An orthonormal basis, (K, m, r), or (K, r, n) if n < m."""
        rank = share(density, min(slopes.shape[1:]))
        left, _, right = torch.linalg.svd(slopes, full_matrices=False)
        return left[:, :, :rank].clone() if slopes.shape[1] <= slopes.shape[2] else right[:, :rank].clone()

    def move(self, values: Tensor, slopes: Tensor, chosen: Tensor, full: Move, free: Move | None) -> None:
        """See `Projector`. The rest is what remains of the gradient."""
        wide = values.shape[1] <= values.shape[2]
        part = chosen.mT @ slopes if wide else slopes @ chosen.mT
        change = torch.zeros_like(part)
        full(change, part)
        values.add_(chosen @ change if wide else change @ chosen)
        if free:
            free(values, slopes - (chosen @ part if wide else part @ chosen))


PROJECTORS: dict[str, Projector] = {
    "columns": Columns(),
    "rows": Rows(),
    "randk": Columns(flat=True),
    "blocks": Rows(flat=True),
    "svd": Singular(),
}


def share(density: float, count: int) -> int:
    """How many that is, rounded down; not fooled by 0.29 x 100 = 28.999...

    >>> share(0.29, 100), share(0.2, 4)
    (29, 0)
    """
    return floor(round(density * count, 9))


def blocks(density: float, tensors: int, order: Order, turn: int, chance: np.random.Generator) -> Collection[int]:
    """Which tensors have a memory as a whole in a turn: round(density x their number).

    Drawn, independently of other turns; or one after another, so that in a cycle each has it once and the last turn has
    what is left. `mirror` goes there and back.
    """
    many = round(density * tensors)
    if order == "random" or not many:
        return chance.permutation(tensors)[:many].tolist()
    cycle, place = divmod(turn, ceil(tensors / many))
    back = order == "mirror" and cycle % 2
    first = (ceil(tensors / many) - 1 - place if back else place) * many
    line = range(tensors)[::-1] if order == "descending" else range(tensors)
    return line[first : first + many]
