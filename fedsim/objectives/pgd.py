"""Projected gradient descent on inputs: examples moved, within a ball around them, to where the loss is high."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from fedsim.gradients import Gradients

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Steps along the loss's slope, by its sign (`linf`) or its direction (`l2`), and back into the ball of `radius`.

    x <- projection of x + `step` s, `steps` times, onto the ball in that norm around the example and into the data's
    range from `low` to `high`.
    Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks (ICLR 2018).
    """

    radius: NotNegative
    step: Positive
    steps: Annotated[int, Field(ge=0)] = 10
    norm: Literal["linf", "l2"] = "linf"
    random_start: bool = True
    """Begin anywhere in the ball, not at its centre."""
    restarts: Annotated[int, Field(ge=1)] = 1
    """With more than one, or with `best`, what counts is the point of the highest loss on all the ways."""
    best: bool = False
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a range from {self.low} to {self.high} is none")

    @property
    def effort(self) -> float:
        """What it costs, in trainings on the example: forward, and back to the input, are two thirds of one."""
        return 2 / 3 * self.restarts * self.steps if self.radius else 0.0

    def attack(
        self, source: Gradients, params: Mapping[str, Tensor], x: Tensor, y: Tensor, draws: Sequence[Generator]
    ) -> Tensor:
        """Examples (K, B, *shape) of K clients moved, each by its own parameters and its own randomness."""
        if self.radius == 0 or self.steps == 0:
            return x
        if self.restarts == 1 and not self.best:
            return self._walk(source, params, x, y, self._start(x, draws))[0]
        found, highest = x, source.of_inputs(params, x, y)[1]
        for _ in range(self.restarts):
            point, loss = self._walk(source, params, x, y, self._start(x, draws), keep=True)
            higher = loss > highest
            found = torch.where(higher.view(*y.shape[:2], *[1] * (x.dim() - 2)), point, found)
            highest = torch.where(higher, loss, highest)
        return found

    def _walk(
        self, source: Gradients, params: Mapping[str, Tensor], x: Tensor, y: Tensor, point: Tensor, keep: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Where it ends; or where the loss was highest on the way, and that loss (K, B)."""
        best, highest = point, torch.full(y.shape[:2], -torch.inf, dtype=x.dtype, device=x.device)
        for turn in range(self.steps + keep):
            slope, loss = source.of_inputs(params, point, y)
            if keep:
                higher = loss > highest
                best = torch.where(higher.view(*loss.shape, *[1] * (x.dim() - 2)), point, best)
                highest = torch.where(higher, loss, highest)
            if turn < self.steps:
                point = self.projected(point + self.step * self._direction(slope), x)
        return (best if keep else point), highest

    def _start(self, x: Tensor, draws: Sequence[Generator]) -> Tensor:
        if not self.random_start:
            return x
        return self.projected(x + torch.stack([self._within(x.shape[1:], draw) for draw in draws]).to(x), x)

    def _within(self, shape: torch.Size, draw: Generator) -> Tensor:
        """Uniform in the ball: (B, *shape)."""
        if self.norm == "linf":
            return (2 * torch.rand(shape, generator=draw) - 1) * self.radius
        direction = torch.randn(shape, generator=draw).flatten(1)
        share = torch.rand(shape[0], 1, generator=draw) ** (1 / prod(shape[1:]))
        return (self.radius * share * direction / direction.norm(dim=1, keepdim=True).clamp_min(TINY)).view(shape)

    def _direction(self, slope: Tensor) -> Tensor:
        if self.norm == "linf":
            return slope.sign()
        return slope / slope.flatten(2).norm(dim=2).clamp_min(TINY).view(*slope.shape[:2], *[1] * (slope.dim() - 2))

    def projected(self, point: Tensor, x: Tensor) -> Tensor:
        """Onto the ball around x, and into the range."""
        away = point - x
        if self.norm == "linf":
            away = away.clamp(-self.radius, self.radius)
        else:
            length = away.flatten(2).norm(dim=2).view(*away.shape[:2], *[1] * (away.dim() - 2))
            away = away * (self.radius / length.clamp_min(TINY)).clamp_max(1.0)
        return (x + away).clamp(self.low, self.high)
