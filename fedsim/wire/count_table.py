"""Count sketches of several rows, from which the largest numbers of a sum can be found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from fedsim_kernels.count_estimate import count_estimate
from fedsim_kernels.count_table import count_table
from fedsim_kernels.language import launches
from pydantic import Field
from torch import Tensor

from fedsim.wire.codec import FLOAT, INDEX, Codec, Draw, Message, Ratio
from fedsim.wire.sketches import hashes


@dataclass(frozen=True, kw_only=True)
class CountTable(Codec):
    """`rows` count sketches of `columns` d places each, always the same, so that tables of all versions add up.

    Charikar, Chen and Farach-Colton (2002); as FetchSGD takes it (Rothchild et al., ICML 2020). What is read of a
    message is the table itself, (rows x columns,); `estimate` finds a vector in it.
    """

    linear: ClassVar[bool] = True
    rows: Annotated[int, Field(ge=1)]
    columns: Ratio
    kept: Ratio
    """The part of a vector that a server step changes."""

    def width(self, size: int) -> int:
        """Places in a row."""
        return max(1, round(self.columns * size))

    def largest(self, size: int) -> int:
        """How many numbers a server step changes."""
        return max(1, round(self.kept * size))

    def nbytes(self, size: int) -> int:
        """Of a table."""
        return FLOAT * self.rows * self.width(size)

    def step_bytes(self, size: int) -> int:
        """The numbers that a server step changes, with their places."""
        return (FLOAT + INDEX) * self.largest(size)

    def encode(self, vector: Tensor, draw: Draw) -> Message:
        """The table."""
        return (self.table(vector.float(), draw),)

    def decode(self, message: Message, size: int, draw: Draw) -> Tensor:
        """The table, as one vector."""
        return message[0].flatten()

    def table(self, vector: Tensor, draw: Draw) -> Tensor:
        """Float32 (rows, columns)."""
        if launches(vector):
            place, sign = self._all_hashes(len(vector), draw, vector.device)
            return count_table(vector[None], place, sign, self.width(len(vector)))[0]
        found = vector.new_zeros(self.rows, self.width(len(vector)))
        for number, row in enumerate(found):
            place, sign = self._hashes(len(vector), number, draw, vector.device)
            row.index_add_(0, place, sign * vector)
        return found

    def estimate(self, table: Tensor, size: int, draw: Draw) -> Tensor:
        """What each number is likely to be, (size,): the median of what the rows say."""
        return count_estimate(table.view(1, self.rows, -1), *self._all_hashes(size, draw, table.device))[0]

    def _all_hashes(self, size: int, draw: Draw, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of all rows: places and signs, (rows, size) each."""
        each = [self._hashes(size, row, draw, device) for row in range(self.rows)]
        places, signs = zip(*each, strict=True)
        return torch.stack(places), torch.stack(signs)

    def _hashes(self, size: int, row: int, draw: Draw, device: torch.device) -> tuple[Tensor, Tensor]:
        place, sign = hashes(size, self.width(size), draw.fixed("CountTable", row))
        return place.to(device), sign.to(device)
