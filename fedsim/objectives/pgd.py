"""Projected gradient descent on inputs: examples moved, within a ball around them, to where the loss is high."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Annotated

import torch
from fedsim_kernels.pgd import TINY, Norm, pgd, projected
from pydantic import Field
from torch import Generator, Tensor

from fedsim.gradients import Gradients
from fedsim.losses import Loss

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Slopes = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of points (K, B, *shape): each one's slope, and losses (K, B)."""


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
    norm: Norm = "linf"
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
    def moves(self) -> bool:
        """Whether it can move anything."""
        return self.radius > 0 and self.steps > 0

    @property
    def price(self) -> float:
        """What it costs, in trainings on the example: forward, and back to the input, are two thirds of one."""
        passes = 1 + self.restarts * (self.steps + 1) if self.looks else self.steps
        return 2 / 3 * passes if self.moves else 0.0

    @property
    def looks(self) -> bool:
        """Whether it looks at every point's loss."""
        return self.restarts > 1 or self.best

    def attack(
        self, source: Gradients, params: Mapping[str, Tensor], x: Tensor, y: Tensor, draws: Sequence[Generator],
        loss: Loss | None = None, offset: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Examples (K, B, *shape) of K clients moved, each by its own parameters and its own randomness.

        To where a loss is high; see `Gradients` for `loss` and `offset`.
        """
        slopes = partial(source.of_inputs, params, y=y, loss=loss, offset=offset)
        if not self.moves:
            return x
        if not self.looks:
            return self._walk(slopes, x, self._start(x, draws))[0]
        found, highest = x, slopes(x)[1]
        for _ in range(self.restarts):
            point, losses = self._walk(slopes, x, self._start(x, draws))
            found, highest = _higher((found, highest), (point, losses))
        return found

    def _walk(self, slopes: Slopes, x: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
        """Where it ends; or where the loss was highest on the way, and that loss (K, B)."""
        best, highest = point, torch.full(x.shape[:2], -torch.inf, dtype=x.dtype, device=x.device)
        for turn in range(self.steps + self.looks):
            slope, losses = slopes(point)
            if self.looks:
                best, highest = _higher((best, highest), (point, losses))
            if turn < self.steps:
                point = pgd(point, slope, x, self.step, *self._bounds)
        return (best if self.looks else point), highest

    def _start(self, x: Tensor, draws: Sequence[Generator]) -> Tensor:
        if not self.random_start:
            return x
        drawn = torch.stack([self._within(x.shape[1:], draw) for draw in draws]).to(x)
        return projected(x + drawn, x, *self._bounds)

    @property
    def _bounds(self) -> tuple[float, Norm, float, float]:
        """Of the ball and the range."""
        return self.radius, self.norm, self.low, self.high

    def _within(self, shape: torch.Size, draw: Generator) -> Tensor:
        """Uniform in the ball: (B, *shape)."""
        if self.norm == "linf":
            return (2 * torch.rand(shape, generator=draw) - 1) * self.radius
        direction = torch.randn(shape, generator=draw).flatten(1)
        share = torch.rand(shape[0], 1, generator=draw) ** (1 / prod(shape[1:]))
        return (self.radius * share * direction / direction.norm(dim=1, keepdim=True).clamp_min(TINY)).view(shape)


def _higher(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Of two points for each example, and their losses (K, B), those of the higher loss; of the first where equal."""
    (here, loss), (there, its) = one, other
    higher = its > loss
    found = torch.where(higher.view(*higher.shape, *[1] * (here.dim() - 2)), there, here)
    return found, torch.where(higher, its, loss)
