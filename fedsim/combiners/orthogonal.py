"""Orthogonal-gradient updates: one direction yields to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsim.combiners.combiner import Memory

Place = Annotated[int, Field(ge=0)]
TINY = 1e-10


@dataclass(frozen=True)
class Orthogonal:
    """The mean, in which direction `of` has lost all that it has along direction `to`, against it or with it.

    ODICE (Mao et al., ICLR 2024) with the objective `odice`: the backward gradient g_b keeps what is orthogonal to the
    forward one, g_b - (g_f . g_b / |g_f|^2) g_f, over all parameters as one vector; the paper takes the sum. Directions
    go by name: an objective's terms by their number, clients by theirs. It is the mean where one of both is missing.
    """

    to: Place = 0
    of: Place = 1

    def __post_init__(self) -> None:
        if self.to == self.of:
            raise ValueError("a direction has nothing that is orthogonal to itself")

    def combine(self, rows: Tensor, names: Sequence[int], turn: int, memory: Memory) -> Tensor:
        """See `Combiner`."""
        named = dict(zip(names, rows, strict=True))
        if {self.to, self.of} <= set(named):
            kept, yields = named[self.to], named[self.of]
            named[self.of] = yields - kept * (kept @ yields) / (kept @ kept).clamp_min(TINY)
        return torch.stack([named[name] for name in sorted(named)]).mean(dim=0)
