"""FedAvgM: a server with momentum."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsim.aggregators.fedavg import FedAvg

Momentum = Annotated[float, Field(ge=0, lt=1)]


@dataclass
class FedAvgM(FedAvg):
    """FedAvg with momentum on the server: u <- momentum * u + mean; the model moves along u.

    Hsu et al., 2019. Without momentum it is FedAvg.
    """

    momentum: Momentum = 0.9
    velocity: Tensor = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.velocity = torch.zeros_like(self.params)

    @property
    def linear(self) -> bool:
        """Momentum carries other versions' updates along."""
        return False

    def move(self, direction: Tensor) -> None:
        """Gather speed, and go."""
        self.velocity = self.momentum * self.velocity + direction
        super().move(self.ahead(direction))

    def ahead(self, direction: Tensor) -> Tensor:
        """Along the velocity."""
        return self.velocity
