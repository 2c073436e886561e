"""FetchSGD: momentum and error feedback on the server, in the space of count sketches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsim.aggregators.fedavg import shares
from fedsim.aggregators.rounds import Rounds
from fedsim.vector import weighted_sum
from fedsim.wire.codec import Draw, Ratio
from fedsim.wire.count_table import CountTable
from fedsim.work import Update


@dataclass
class FetchSGD(Rounds):
    """Moves along the largest numbers that stand out of all sketches so far, and keeps the rest of them for later.

    Rothchild et al., ICML 2020, Algorithm 1: with S the mean of the clients' sketches, S_u <- momentum S_u + S,
    S_e <- S_e + S_u, D = top-k of the estimate from S_e, S_e <- S_e - S(D), w <- w + lr D. What goes up is a table,
    what comes down are k numbers with their places.
    """

    rows: Annotated[int, Field(ge=1)] = 5
    """Of the table."""
    columns: Ratio = 0.02
    """Places in a row, as a part of the model's size."""
    kept: Ratio = 0.01
    """K, as a part of the model's size."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    seed: int = 0
    velocity: Tensor = field(init=False)
    """S_u, (rows x columns,)."""
    error: Tensor = field(init=False)
    """S_e, (rows x columns,)."""
    vectors: ClassVar[tuple[int, int]] = (1, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.velocity, self.error = self.params.new_zeros(self.shape), self.params.new_zeros(self.shape)

    @property
    def codec(self) -> CountTable:
        """Of the clients' changes."""
        return CountTable(rows=self.rows, columns=self.columns, kept=self.kept)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is read of a message."""
        size = len(self.params)
        return (self.rows * self.codec.width(size) if size else 0,)

    def direction(self, updates: list[Update]) -> Tensor:
        """The largest numbers, elsewhere 0."""
        size, draw = len(self.params), Draw(self.seed, self.version)
        if not size:  # as where nothing is trained
            return self.params
        self.velocity = self.momentum * self.velocity + weighted_sum([each.delta for each in updates], shares(updates))
        self.error = self.error + self.velocity
        found = self.codec.estimate(self.error, size, draw)
        places = found.abs().topk(self.codec.largest(size)).indices
        step = torch.zeros_like(found).index_copy_(0, places, found[places])
        self.error = self.error - self.codec.table(step, draw).flatten()
        return step
