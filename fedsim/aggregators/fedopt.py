"""FedAdagrad, FedAdam and FedYogi: an adaptive optimizer on the server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsim.aggregators.fedavg import FedAvg

Decay = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


@dataclass
class FedOpt(FedAvg, ABC):
    """FedAvg whose mean is taken for a gradient: the model moves along m / (sqrt(v) + tau).

    Reddi et al., ICLR 2021, Algorithm 2, without bias correction; v starts at tau^2, its least value there.
    """

    lr: Positive = 0.1
    """Of the server's step; the default is ours."""
    beta1: Decay = 0.9
    tau: Positive = 1e-3
    """How much the step adapts: the smaller, the more."""
    first: Tensor = field(init=False)
    """m: the mean direction."""
    second: Tensor = field(init=False)
    """v: the mean square of the direction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.first = torch.zeros_like(self.params)
        self.second = torch.full_like(self.params, self.tau**2)

    @property
    def linear(self) -> bool:
        """It adapts."""
        return False

    def move(self, direction: Tensor) -> None:
        """Update m and v, and go."""
        self.first = self.beta1 * self.first + (1 - self.beta1) * direction
        self.second = self.grown(direction.square())
        super().move(self.first / (self.second.sqrt() + self.tau))

    @abstractmethod
    def grown(self, square: Tensor) -> Tensor:
        """The next v, from the squared direction."""


@dataclass
class FedAdagrad(FedOpt):
    """v <- v + direction^2, and no momentum."""

    beta1: Decay = 0.0

    def grown(self, square: Tensor) -> Tensor:
        """The sum of all squares."""
        return self.second + square


@dataclass
class FedAdam(FedOpt):
    """v <- beta2 v + (1 - beta2) direction^2."""

    beta2: Decay = 0.99

    def grown(self, square: Tensor) -> Tensor:
        """Their running mean."""
        return self.beta2 * self.second + (1 - self.beta2) * square


@dataclass
class FedYogi(FedOpt):
    """v <- v - (1 - beta2) direction^2 sign(v - direction^2): a small direction makes it forget but slowly."""

    beta2: Decay = 0.99

    def grown(self, square: Tensor) -> Tensor:
        """One bounded step towards the square."""
        return self.second - (1 - self.beta2) * square * torch.sign(self.second - square)
