"""The last update of every client that was ever heard."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from fedsim_kernels.fedstale import fedstale
from torch import Tensor

BLOCK_BYTES = 2**24
"""Room is made for so many bytes of rows at a time."""

Place = Literal["ram", "disk"]


@dataclass
class Memory:
    """A matrix with a row (P,) for each client that has one; everybody else's is zero and takes no room.

    On disk the rows are mapped from nameless temporary files, so the system keeps in memory what it has room for.
    """

    like: Tensor
    """A vector of the rows' size and type."""
    place: Place = "ram"
    rows: dict[int, int] = field(default_factory=dict)
    """Which row is a client's."""
    blocks: list[Tensor] = field(default_factory=list)
    sum: Tensor = field(init=False)
    """Of the rows, each times its client's weight, in float64; kept up with every change."""

    def __post_init__(self) -> None:
        self.sum = torch.zeros_like(self.like, dtype=torch.float64)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For a copy, or one restored from a saved state: rows that were on disk go there again."""
        vars(self).update(state)
        if self.place == "disk":
            self.blocks = [self._block().copy_(block) for block in self.blocks]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows)

    def __getitem__(self, client: int) -> Tensor:
        """The client's row, which is not to be written to."""
        row = self.rows.get(client)
        if row is None:
            return torch.zeros_like(self.like)
        return self.blocks[row // self.depth][row % self.depth].to(self.like.device)

    def news(self, client: int, vector: Tensor) -> Tensor:
        """What a client's update (P,) has that its last one had not, in float64."""
        return vector.double() - self[client]

    def remember(self, client: int, vector: Tensor, weight: float = 1.0) -> None:
        """Replace the client's row; its weight in the sum must always be the same."""
        self.sum.add_(self.news(client, vector), alpha=weight)
        row = self.row_of(client)
        self.blocks[row // self.depth][row % self.depth] = vector

    def row_of(self, client: int) -> int:
        """The client's row; one of zeros, if it had none."""
        row = self.rows.setdefault(client, len(self.rows))
        if row == len(self.blocks) * self.depth:
            self.blocks.append(self._block())
        return row

    def stale(
        self, news: Mapping[int, Tensor], weights: Sequence[float], importances: Sequence[float], beta: float
    ) -> Tensor:
        """FedStale's direction (P,) of updates by client, which are then remembered: by a kernel, block by block.

        Importances are the rows' weights in the sum.
        """
        places, rows = torch.tensor([self.row_of(client) for client in news]), torch.stack(list(news.values()))
        doubles = (rows.new_tensor(given, dtype=torch.float64) for given in (weights, importances))
        direction, (w, a) = beta * self.sum, doubles
        for number, block in enumerate(self.blocks):
            here = torch.nonzero(places // self.depth == number).flatten()
            if len(here):
                where, change = (places[here] % self.depth).to(rows.device), torch.zeros_like(self.sum)
                here = here.to(rows.device)
                direction += fedstale(rows[here], block, where, w[here], a[here], change, beta)
                self.sum += change
        return direction.to(rows.dtype)

    @property
    def depth(self) -> int:
        """Rows in a block."""
        return max(1, BLOCK_BYTES // max(1, self.like.nbytes))

    def _block(self) -> Tensor:
        shape = (self.depth, len(self.like))
        if self.place == "ram" or not self.like.nbytes:
            return self.like.new_zeros(shape)
        with tempfile.TemporaryFile() as file:
            mapped = np.memmap(file, dtype=self.like.cpu().numpy().dtype, mode="w+", shape=shape)
        return torch.from_numpy(mapped)
