"""A centre that far updates do not draw away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedsim.defences.coordinates import Median
from fedsim.defences.defence import Count, Defence, Some

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

    def middle(self, rows: Tensor) -> Tensor:
        """See `Defence`."""
        centre = Median().middle(rows)
        spread = (rows - centre).norm(dim=1).median()
        for _ in range(self.iterations):
            weights = 1 / (rows - centre).norm(dim=1).clamp_min(self.smooth * (1 + float(spread)))
            moved = weights @ rows / weights.sum()
            step, centre = (moved - centre).norm(), moved
            if step <= 1e-10 * spread:
                break
        return centre


@dataclass(frozen=True)
class CentredClipping(Defence):
    """Updates shortened to `radius` around a centre; their mean is the next centre, `iterations` times from the median.

    Karimireddy, He and Jaggi, Learning from History for Byzantine Robust Optimization (ICML 2021), which begins at the
    last round's centre; the median makes it the same wherever the origin is.
    """

    radius: Positive
    liars: Some = 0
    iterations: Count = 3

    def middle(self, rows: Tensor) -> Tensor:
        """See `Defence`."""
        centre = Median().middle(rows)
        for _ in range(self.iterations):
            away = rows - centre
            short = (self.radius / away.norm(dim=1).clamp_min(1e-300)).clamp_max(1.0)
            centre = centre + (short[:, None] * away).mean(dim=0)
        return centre


@dataclass(frozen=True)
class NormBound(Defence):
    """The mean of updates none of which is longer than `radius`: Sun et al., Can You Really Backdoor FL? (2019)."""

    radius: Positive
    liars: Some = 0

    def middle(self, rows: Tensor) -> Tensor:
        """See `Defence`."""
        short = (self.radius / rows.norm(dim=1).clamp_min(1e-300)).clamp_max(1.0)
        return (short[:, None] * rows).mean(dim=0)
