"""What came of many runs: for each combination of their axes the mean over seeds, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fedsim.intervals import mean_and_half
from fedsim.results import Run

OVER = ("seed", "learning_seed")
"""Axes that means are taken over."""


@dataclass(frozen=True)
class Line:
    """One combination of all other axes."""

    at: Mapping[str, str]
    """What it is on each of them."""
    runs: Sequence[Run]
    """One a seed."""

    @property
    def finished(self) -> list[Run]:
        """Those that came to their end."""
        return [run for run in self.runs if run.finished]

    def last(self, column: str) -> list[float]:
        """What the finished runs end with, where they have it."""
        ends = [run.metrics.iloc[-1] for run in self.finished]
        return [float(end[column]) for end in ends if column in end]

    def mean(self, column: str) -> float | None:
        """Over the finished runs."""
        values = self.last(column)
        return fmean(values) if values else None

    def interval(self, column: str) -> tuple[float, float] | None:
        """The mean, and half of its 95 % confidence interval."""
        values = self.last(column)
        return mean_and_half(values) if values else None

    def json(self, columns: Sequence[str]) -> dict[str, Any]:
        """As plain data."""
        intervals = {column: self.interval(column) for column in columns}
        told = {column: {"mean": found[0], "half": found[1]} for column, found in intervals.items() if found}
        return {"at": dict(self.at), "runs": len(self.runs), "finished": len(self.finished), **told}


def summary(comparison: Run) -> list[Line]:
    """Of a comparison by axes, in the scenario's order; of another one, each run by its label."""
    where = comparison.coordinates or {run.label: {"run": run.label} for run in comparison.arms}
    lines: dict[tuple[str, ...], list[Run]] = {}
    for run in comparison.arms:
        lines.setdefault(tuple(name for axis, name in where[run.label].items() if axis not in OVER), []).append(run)
    axes = [axis for axis in next(iter(where.values())) if axis not in OVER]
    return [Line(dict(zip(axes, place, strict=True)), runs) for place, runs in lines.items()]
