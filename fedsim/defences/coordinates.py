"""Every coordinate by itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedsim.defences.defence import Combined, Defence, Some, by_coordinates


@dataclass(frozen=True)
class Median(Defence):
    """The median of every coordinate, of an even number the mean of both middle ones: Yin et al., ICML 2018."""

    liars: Some = 0

    def middle(self, rows: Tensor) -> Combined:
        """See `Defence`."""
        return by_coordinates(rows, rows.argsort(dim=0, stable=True)[(len(rows) - 1) // 2 : len(rows) // 2 + 1])


@dataclass(frozen=True)
class TrimmedMean(Defence):
    """The mean of every coordinate without its `liars` largest and smallest values: Yin et al., ICML 2018."""

    liars: Some

    def middle(self, rows: Tensor) -> Combined:
        """See `Defence`."""
        trimmed = min(self.liars, (len(rows) - 1) // 2)
        return by_coordinates(rows, rows.argsort(dim=0, stable=True)[trimmed : len(rows) - trimmed])


def nearest_mean(rows: Tensor, count: int) -> Combined:
    """Of every coordinate the mean of those `count` values that lie nearest to its median."""
    centre = Median().middle(rows).vector
    return by_coordinates(rows, (rows - centre).abs().argsort(dim=0, stable=True)[:count])
