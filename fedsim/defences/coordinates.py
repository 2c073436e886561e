"""Every coordinate by itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.defences.defence import Defence, Some


@dataclass(frozen=True)
class Median(Defence):
    """The median of every coordinate, of an even number the mean of both middle ones: Yin et al., ICML 2018."""

    liars: Some = 0

    def middle(self, rows: Tensor) -> Tensor:
        """See `Defence`."""
        ordered, half = rows.sort(dim=0).values, len(rows) // 2
        return ordered[half] if len(rows) % 2 else (ordered[half - 1] + ordered[half]) / 2


@dataclass(frozen=True)
class TrimmedMean(Defence):
    """The mean of every coordinate without its `liars` largest and smallest values: Yin et al., ICML 2018."""

    liars: Some

    def middle(self, rows: Tensor) -> Tensor:
        """See `Defence`."""
        trimmed = min(self.liars, (len(rows) - 1) // 2)
        return rows.sort(dim=0).values[trimmed : len(rows) - trimmed].mean(dim=0)


def nearest_mean(rows: Tensor, count: int) -> Tensor:
    """Of every coordinate the mean of those `count` values that lie nearest to its median."""
    centre = Median().middle(rows)
    places = (rows - centre).abs().argsort(dim=0, stable=True)[:count]
    return torch.gather(rows, 0, places).mean(dim=0)
