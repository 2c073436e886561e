"""What algorithms cost until they reach a target, seed by seed; who never does has cost more than anybody knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from fedsim.errors import ScenarioError, nearest
from fedsim.intervals import mean_and_half
from fedsim.results import Run
from fedsim.trials import Algorithm

COSTS = ("time", "bytes", "versions")
"""Seconds, bytes both ways, server versions or rounds: ratios of algorithms are what counts."""
END = "at the end"
"""Of the metric itself: differences are what counts."""


def lower_is_better(metric: str) -> bool:
    """Whether it is some loss."""
    return "loss" in metric


@dataclass(frozen=True)
class Outcome:
    """What one algorithm's runs came to."""

    label: str
    measure: str
    """One of `COSTS`, or `END`."""
    values: Mapping[int, float]
    """By seed; where the target was never reached, what had been spent by the end."""
    never: frozenset[int] = frozenset()
    """Seeds whose runs never reached it: their values are too low."""

    @property
    def mean(self) -> float:
        """Over seeds; too low if `never` is not empty."""
        return fmean(self.values.values())

    @property
    def half(self) -> float | None:
        """Half the width of its 95 % confidence interval, by Student's t; None where there is no such interval."""
        values = list(self.values.values())
        return None if self.never or len(values) < 2 else mean_and_half(values)[1]


def outcomes(algorithms: Sequence[Algorithm], metric: str, target: float | None) -> list[Outcome]:
    """Each algorithm's metric at the end, and, with a target, its costs until that.

    ScenarioError if a run has not measured it.
    """
    return [outcome for one in algorithms for outcome in _of(one, metric, target)]


def _of(algorithm: Algorithm, metric: str, target: float | None) -> Iterator[Outcome]:
    tables = {seed: _measured(run, metric) for seed, run in algorithm.runs.items()}
    yield Outcome(algorithm.label, END, {seed: float(table[metric][-1]) for seed, table in tables.items()})
    if target is None:
        return
    sign = -1 if lower_is_better(metric) else 1
    enough = {seed: np.flatnonzero(sign * table[metric] >= sign * target) for seed, table in tables.items()}
    never = frozenset(seed for seed, places in enough.items() if not len(places))
    for cost in COSTS:
        spent = {seed: float(table[cost][enough[seed][0] if seed not in never else -1])
                 for seed, table in tables.items()}  # fmt: skip
        yield Outcome(algorithm.label, cost, spent, never)


def _measured(run: Run, metric: str) -> dict[str, np.ndarray]:
    rows = run.metrics
    if metric not in rows:
        raise ScenarioError(f"{run.path}: this run has not measured {metric!r}; {nearest(metric, rows.columns)}")
    return {metric: rows[metric].to_numpy(), "time": rows.time_s.to_numpy(), "versions": rows.version.to_numpy(),
            "bytes": (rows.bytes_down + rows.bytes_up).to_numpy()}  # fmt: skip
