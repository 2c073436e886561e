"""Whether two algorithms differ, over seeds: paired by common random numbers, corrected for many comparisons."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import exp, isfinite, nan, sqrt

import numpy as np
from scipy.special import bdtr, stdtr, stdtrit

from fedsim.errors import ScenarioError, nearest
from fedsim.reaching import COSTS, Outcome

CONFIDENCE = 0.95
LEAST = 2
"""Of fewer seeds nobody knows the spread."""
PAIRED, WELCH, SIGNS, NONE = "paired t", "Welch's t", "sign test", "one seed"


@dataclass(frozen=True)
class Finding:
    """What a comparison of two algorithms says of the second."""

    method: str
    p: float
    """Two-sided; NaN where nothing can be tested."""
    effect: float = nan
    """Of costs the second's over the first's (geometric mean), of the metric the second's less the first's (mean)."""
    low: float = nan
    high: float = nan
    """Its 95 % confidence interval, not corrected for other comparisons."""
    size: float = nan
    """Cohen's d: the mean difference (of costs: of logarithms) in deviations of differences or, unpaired, pooled."""
    unknown: int = 0
    """Pairs of which nobody knows the order, as at least one of them never reached the target."""


@dataclass(frozen=True)
class Difference:
    """Two algorithms in one measure."""

    measure: str
    first: str
    second: str
    shared: int
    """Seeds that both have."""
    test: Finding
    adjusted: float = nan
    """The p-value by Holm's method, over all that are compared together."""


def differences(outcomes: Sequence[Outcome], baseline: str | None = None) -> list[Difference]:
    """Of every two algorithms, or of all from one, in every measure; together they are one family of tests.

    ScenarioError if there is no such baseline.
    """
    labels = list(dict.fromkeys(outcome.label for outcome in outcomes))
    if baseline is not None and baseline not in labels:
        raise ScenarioError(f"--baseline {baseline}: there is no such algorithm; {nearest(baseline, labels)}")
    pairs = combinations(labels, 2) if baseline is None else ((baseline, one) for one in labels if one != baseline)
    known = {(outcome.label, outcome.measure): outcome for outcome in outcomes}
    measures = dict.fromkeys(outcome.measure for outcome in outcomes)
    found = [compared(known[one, measure], known[other, measure]) for one, other in pairs for measure in measures]
    adjusted = holm([difference.test.p for difference in found])
    return [replace(difference, adjusted=p) for difference, p in zip(found, adjusted, strict=True)]


def compared(first: Outcome, second: Outcome) -> Difference:
    """Two algorithms in one measure.

    Seeds that both have are paired, as they share data, devices and draws; costs are compared by their logarithms.
    Where a run never reached the target, or all differences are one number, only their signs count. With fewer than two
    shared seeds it is Welch's test of all.
    """
    both = sorted(first.values.keys() & second.values.keys())
    return Difference(first.measure, first.label, second.label, len(both), _tested(first, second, both))


def _tested(first: Outcome, second: Outcome, both: Sequence[int]) -> Finding:
    if first.never or second.never:
        return _by_signs(first, second, both)
    costs = first.measure in COSTS
    if len(both) < LEAST:
        return _welch(_numbers(first, first.values), _numbers(second, second.values), costs)
    change = _numbers(second, both) - _numbers(first, both)
    if not np.isfinite(change).all() or np.ptp(change) <= 1e-12 * np.abs(change).max():
        mean = float(change.mean())
        return replace(_by_signs(first, second, both), effect=exp(mean) if costs else mean)
    mean, deviation = float(change.mean()), float(change.std(ddof=1))
    test = Finding(PAIRED, nan, size=mean / deviation)
    return _student(test, mean, deviation / sqrt(len(both)), len(both) - 1, costs)


def _numbers(outcome: Outcome, seeds: Collection[int]) -> np.ndarray:
    values = np.array([outcome.values[seed] for seed in seeds])
    with np.errstate(divide="ignore"):  # what costs nothing has no logarithm
        return np.log(values) if outcome.measure in COSTS else values


def _welch(one: np.ndarray, other: np.ndarray, costs: bool) -> Finding:
    counts = len(one), len(other)
    if min(counts) < LEAST:
        return Finding(NONE, nan)
    first, second = one.var(ddof=1) / counts[0], other.var(ddof=1) / counts[1]
    if not 0 < first + second < np.inf:
        return Finding(NONE, nan)
    freedom = (first + second) ** 2 / (first**2 / (counts[0] - 1) + second**2 / (counts[1] - 1))
    mean = float(other.mean() - one.mean())
    test = Finding(WELCH, nan, size=mean / sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2))
    return _student(test, mean, sqrt(first + second), float(freedom), costs)


def _student(test: Finding, mean: float, error: float, freedom: float, costs: bool) -> Finding:
    """With its p-value, and its effect between the ends of its interval."""
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    effect, low, high = (exp(x) if costs else x for x in (mean, mean - half, mean + half))
    return replace(test, p=2 * float(stdtr(freedom, -abs(mean) / error)), effect=effect, low=low, high=high)


def _by_signs(first: Outcome, second: Outcome, both: Sequence[int]) -> Finding:
    """A run that never reached the target has cost more than its value says, but nobody knows how much more."""
    orders = [_order(first, second, seed) for seed in both]
    signs = [sign for sign in orders if sign]
    fewer = min(signs.count(1), signs.count(-1))
    p = min(1.0, 2 * float(bdtr(fewer, len(signs), 0.5))) if signs else 1.0
    return Finding(SIGNS, p if both else nan, unknown=orders.count(None))


def _order(first: Outcome, second: Outcome, seed: int) -> int | None:
    """1 if the second's is larger, -1 if the first's is, 0 if they are equal; None if nobody knows."""
    one, other = first.values[seed], second.values[seed]
    if seed in first.never and seed in second.never:
        return None
    if seed in first.never:
        return -1 if other <= one else None
    if seed in second.never:
        return 1 if one <= other else None
    return (other > one) - (other < one)


def holm(p: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's step-down method (1979); NaN stays, and is not counted.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    tested = sorted((value, place) for place, value in enumerate(p) if isfinite(value))
    found, highest = [nan] * len(p), 0.0
    for rank, (value, place) in enumerate(tested):
        highest = found[place] = min(1.0, max(highest, (len(tested) - rank) * value))
    return found
