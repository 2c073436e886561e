"""DiLoCo: many local steps, then Nesterov's momentum on the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fedsim.aggregators.aggregator import Rate
from fedsim.aggregators.fedavgm import FedAvgM


@dataclass
class DiLoCo(FedAvgM):
    """The outer step of DiLoCo: u <- momentum * u + mean; the model moves along mean + momentum * u.

    Douillard et al., 2023, Algorithm 1; as torch's SGD does with `nesterov`. Clients run AdamW for hundreds of steps
    (`local`). Here its memory does not outlive a round, in the paper it does.
    """

    weights: Literal["examples", "uniform", "expected"] = "uniform"
    lr: Rate = 0.7

    def ahead(self, direction: Tensor) -> Tensor:
        """Nesterov's step: one velocity ahead."""
        return direction + self.momentum * self.velocity
