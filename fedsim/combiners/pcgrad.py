"""PCGrad: gradient surgery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.combiners.combiner import Memory
from fedsim.rng import stream


@dataclass(frozen=True)
class PCGrad:
    """Each direction loses what points against another one, these in random order; then their mean.

    Yu et al., Gradient Surgery for Multi-Task Learning (NeurIPS 2020), Algorithm 1, which takes the sum. A direction is
    projected as it has become, the others count as they were. `seed` is the run's.
    """

    seed: int = 0

    def combine(self, rows: Tensor, names: Sequence[int], turn: int, memory: Memory) -> Tensor:
        """See `Combiner`. The order is drawn for each name and turn."""
        order = sorted(range(len(rows)), key=lambda place: names[place])
        return torch.stack([self._cleared(rows, place, order, (turn, names[place])) for place in order]).mean(dim=0)

    def _cleared(self, rows: Tensor, place: int, order: Sequence[int], address: tuple[int, int]) -> Tensor:
        own = rows[place]
        for other in (order[at] for at in stream(self.seed, "pcgrad", *address).permutation(len(rows))):
            against = float(own @ rows[other])
            if other != place and against < 0:
                own = own - against / float(rows[other] @ rows[other]) * rows[other]
        return own
