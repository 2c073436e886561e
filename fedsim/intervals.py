"""Means over seeds, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

from scipy.special import stdtrit


def mean_and_half(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The mean, and half the width of its confidence interval by Student's t; 0 where there is one value, or no spread.

    >>> mean, half = mean_and_half([1.0, 2.0, 3.0])
    >>> mean, round(half, 4)
    (2.0, 2.4841)
    """
    half = stdtrit(len(values) - 1, (1 + confidence) / 2) * stdev(values) / sqrt(len(values)) if len(values) > 1 else 0
    return fmean(values), float(half)
