"""A centre that far updates do not draw away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsim.defences.coordinates import Median
from fedsim.defences.defence import Combined, Count, Defence, Some, weighted

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class GeometricMedian(Defence):
    """The point with the least sum of distances to all updates, by Weiszfeld's steps: RFA, Pillutla et al. (2022).

    From the coordinates' median on, until a step moves it by less than 10^-10 of its spread; `smooth` keeps it away
    from updates that it meets.
    """

    liars: Some = 0
    iterations: Count = 1000
    smooth: Positive = 1e-12

    def middle(self, rows: Tensor) -> Combined:
        """See `Defence`."""
        found = Median().middle(rows)
        spread = (rows - found.vector).norm(dim=1).median()
        for _ in range(self.iterations):
            weights = 1 / (rows - found.vector).norm(dim=1).clamp_min(self.smooth * (1 + float(spread)))
            before, found = found, weighted(rows, weights / weights.sum())
            if (found.vector - before.vector).norm() <= 1e-10 * spread:
                break
        return found


@dataclass(frozen=True)
class CentredClipping(Defence):
    """Updates shortened to `radius` around a centre; their mean is the next centre, `iterations` times from the median.

    Karimireddy, He and Jaggi, Learning from History for Byzantine Robust Optimization (ICML 2021), which begins at the
    last round's centre; the median makes it the same wherever the origin is.
    """

    radius: Positive
    liars: Some = 0
    iterations: Count = 3

    def middle(self, rows: Tensor) -> Combined:
        """See `Defence`; what a shortened update lacks of its share, the last centre has."""
        found = Median().middle(rows)
        for _ in range(self.iterations):
            moved = shortened(rows - found.vector, self.radius)
            found = Combined(found.vector + moved.vector, moved.shares)
        return found


@dataclass(frozen=True)
class NormBound(Defence):
    """The mean of updates none of which is longer than `radius`: Sun et al., Can You Really Backdoor FL? (2019)."""

    radius: Positive
    liars: Some = 0

    def middle(self, rows: Tensor) -> Combined:
        """See `Defence`."""
        return shortened(rows, self.radius)


@dataclass(frozen=True)
class SelfCentredClipping:
    """Of peers: x <- sum_j W_ij (x + clip(x_j - x)), every difference from its own model shortened to `radius`.

    ClippedGossip: He, Karimireddy and Jaggi, Byzantine-Robust Decentralized Learning (2022). Without a radius it is
    their theorem's, tau^2 = (1 / d) sum W_ij |x_j - x|^2 over honest neighbours, where d is the weight of the others;
    as nobody knows them, the farthest ones of a `weight` up to d are left out, which is ours.
    """

    radius: Positive | None = None
    weight: Annotated[float, Field(gt=0, lt=1)] = 0.2

    def around(self, own: Tensor, heard: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """See `Guard`; who is not finite is taken to agree with it."""
        if not heard or not own.numel():
            return own
        away = torch.stack([model.double() for model in heard]) - own.double()
        away[~away.isfinite().all(dim=1)] = 0
        radius = self.radius or self._adapted(away.norm(dim=1), weights)
        short = (radius / away.norm(dim=1).clamp_min(1e-300)).clamp_max(1.0)
        return (own + (away.new_tensor(weights) * short) @ away).to(own.dtype)

    def _adapted(self, lengths: Tensor, weights: Sequence[float]) -> float:
        left, total = self.weight, 0.0
        for place in lengths.argsort(descending=True, stable=True).tolist():
            if weights[place] <= left + 1e-12:
                left -= weights[place]
            else:
                left, total = 0.0, total + weights[place] * float(lengths[place]) ** 2
        return sqrt(total / self.weight)


def shortened(rows: Tensor, radius: float) -> Combined:
    """The mean of rows (m, P) none of which is longer than this."""
    return weighted(rows, (radius / rows.norm(dim=1).clamp_min(1e-300)).clamp_max(1.0) / len(rows))
