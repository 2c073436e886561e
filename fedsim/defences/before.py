"""What makes updates more alike before another rule looks at them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from fedsim_kernels.distances import distances
from torch import Tensor

from fedsim.defences.defence import Combined, Count, Defence, Some
from fedsim.rng import stream


@dataclass(frozen=True)
class NearestNeighbourMixing(Defence):
    """Every update becomes the mean of its m - liars nearest ones, itself among them: Allouah et al., AISTATS 2023."""

    rule: Defence
    liars: Some

    @property
    def least(self) -> int:
        """As the other one's."""
        return max(2 * self.liars + 1, self.rule.least)

    def middle(self, rows: Tensor) -> Combined:
        """See `Defence`."""
        count = max(1, len(rows) - self.liars)
        nearest = distances(rows).argsort(dim=1, stable=True)[:, :count].sort(dim=1).values
        vector, mixed = self.rule.middle(rows[nearest].mean(dim=1))
        shares = torch.zeros_like(mixed).index_add(0, nearest.flatten(), mixed.repeat_interleave(count) / count)
        return Combined(vector, shares)


@dataclass(frozen=True)
class Bucketing(Defence):
    """Means of random buckets of `size` updates take their place: Karimireddy, He and Jaggi, ICLR 2022.

    A liar spoils its whole bucket, so that the other rule has to bear as many liars among fewer. `seed` is the
    run's; the same updates, in whatever order, make the same buckets.
    """

    rule: Defence
    size: Count = 2
    seed: int = 0

    @property
    def liars(self) -> int:  # type: ignore[override]
        """As the other one's."""
        return self.rule.liars

    @property
    def least(self) -> int:
        """So many that there are enough buckets."""
        return self.size * (self.rule.least - 1) + 1

    def middle(self, rows: Tensor) -> Combined:
        """See `Defence`."""
        order = sorted(range(len(rows)), key=lambda row: rows[row].tolist())
        places = stream(self.seed, "buckets", len(rows)).permutation(len(rows))
        buckets = torch.tensor([order[place] for place in places]).split(self.size)
        vector, mixed = self.rule.middle(torch.stack([rows[bucket].mean(dim=0) for bucket in buckets]))
        shares = rows.new_zeros(len(rows))
        for bucket, share in zip(buckets, mixed, strict=True):
            shares[bucket] = share / len(bucket)
        return Combined(vector, shares)
