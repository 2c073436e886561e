"""A grid of runs as one scorecard: attack by defence by timing, means and intervals over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from fedsim.errors import ScenarioError, nearest
from fedsim.intervals import mean_and_half
from fedsim.results import Run

OVER = "seed"
"""The axis that means are taken over."""

TARGET = 0.9
"""Of what the first row and column end with: the accuracy that `slowdown` asks the time of."""


@dataclass(frozen=True)
class Measure:
    """What a scorecard shows."""

    title: str
    best: float
    worst: float
    write: Callable[[float], str] = "{:.2f}".format


MEASURES: Mapping[str, Measure] = {
    "accuracy": Measure("accuracy", 1.0, 0.0),
    "success": Measure("attack success: mistaken as the attack wants it; or the part of accuracy lost", 0.0, 1.0),
    "false_positives": Measure("false positives: honest updates that counted for less than half", 0.0, 1.0),
    "slowdown": Measure(f"time to {TARGET:.0%} of the usual accuracy, over the usual time", 1.0, 4.0, "{:.1f}x".format),
}


@dataclass(frozen=True)
class Scorecard:
    """Of one grid. `rows`, `columns` and `panels` are axes of it, of which the first value of each is the reference."""

    runs: pd.DataFrame
    """One row a run: its place on each axis, its seed and the `MEASURES`."""
    rows: str
    columns: str
    panels: str

    @classmethod
    def of(cls, run: Run, rows: str | None = None, columns: str | None = None, panels: str | None = None) -> Scorecard:
        """Of a comparison whose scenario had axes; which is which is their order, if it is not said.

        ScenarioError if there are no such axes, or nothing that has an accuracy.
        """
        axes = [axis for axis in next(iter(run.coordinates.values()), {}) if axis != OVER]
        chosen = [axis for axis in (rows, columns, panels) if axis is not None]
        for axis in [axis for axis in chosen if axis not in axes]:
            raise ScenarioError(f"{run.path}: this comparison has no axis {axis!r}; {nearest(axis, axes)}")
        rest = [axis for axis in axes if axis not in chosen]
        found = [axis or (rest.pop(0) if rest else None) for axis in (rows, columns, panels)]
        first, second, third = found
        if first is None or second is None or rest:
            raise ScenarioError(f"{run.path}: a scorecard has two or three axes beside {OVER}; here are {len(axes)}")
        if any("accuracy" not in arm.metrics for arm in run.arms):
            raise ScenarioError(f"{run.path}: there are runs without accuracy")
        where = [{third or "panel": "", OVER: "0", **run.coordinates[arm.label]} for arm in run.arms]
        names = (first, second, third or "panel", OVER)
        curves = {tuple(at[name] for name in names): arm.metrics for at, arm in zip(where, run.arms, strict=True)}
        rows_of = [
            dict(zip(names, place, strict=True)) | found for place, found in zip(curves, judged(curves), strict=True)
        ]
        return cls(pd.DataFrame(rows_of), *names[:3])

    def cell(self, measure: str, row: str, column: str, panel: str = "") -> list[float]:
        """One value a seed; NaN for a time that never came."""
        runs = self.runs
        here = (runs[self.rows] == row) & (runs[self.columns] == column) & (runs[self.panels] == panel)
        return runs[here][measure].tolist()

    def names(self, axis: str) -> list[str]:
        """On an axis, in the scenario's order."""
        return list(dict.fromkeys(self.runs[axis]))

    def written(self, measure: str, row: str, column: str, panel: str, short: bool = False) -> str:
        """A cell as people read it: mean and half its interval; or in how many runs the accuracy was never reached."""
        values = self.cell(measure, row, column, panel)
        never = sum(map(np.isnan, values))
        if never:
            return "never" if never == len(values) else f"never {never}/{len(values)}"
        mean, half = mean_and_half(values)
        write = MEASURES[measure].write
        return write(mean) if len(values) == 1 else f"{write(mean)}{chr(10) if short else ' '}±{write(half)}"

    def tables(self) -> list[Table]:
        """For a terminal: one a panel and measure."""
        found = []
        for panel in self.names(self.panels):
            for measure, shown in MEASURES.items():
                table = Table(title=" · ".join(filter(None, (panel, shown.title))), title_justify="left")
                for name in (self.rows, *self.names(self.columns)):
                    table.add_column(name, justify="left" if name == self.rows else "right", overflow="fold")
                for row in self.names(self.rows):
                    cells = [self.written(measure, row, column, panel) for column in self.names(self.columns)]
                    table.add_row(row, *cells)
                found.append(table)
        return found

    def json(self) -> list[dict[str, Any]]:
        """All runs, as plain data."""
        return self.runs.astype(object).where(self.runs.notna(), None).to_dict(orient="records")

    def draw(self, target: Path | None = None, note: str = "") -> Figure:
        """A heat map for each panel and measure, from yellow (good) to blue; written to `target` if there is one."""
        rows, columns = self.names(self.rows), self.names(self.columns)
        size = (
            2.2 + 0.62 * len(columns) * len(MEASURES),
            1.3 + (0.7 + 0.42 * len(rows)) * len(self.names(self.panels)),
        )
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(self.names(self.panels)), len(MEASURES), squeeze=False, sharex=True, sharey=True)
        for panel, line in zip(self.names(self.panels), grid, strict=True):
            for axes, (name, measure) in zip(line, MEASURES.items(), strict=True):
                self._heat(axes, name, measure, panel)
        for axes, panel in zip(grid[:, 0], self.names(self.panels), strict=True):
            axes.set_ylabel(panel, fontsize=10, fontweight="bold")
        for axes, measure in zip(grid[0], MEASURES.values(), strict=True):
            axes.set_title(fill(measure.title, 46), fontsize=7)
        figure.supxlabel(note, fontsize=6, color="grey", x=0.99, ha="right")
        if target is not None:
            temporary = target.with_suffix(".tmp")
            figure.savefig(temporary, dpi=200, format="png")
            temporary.rename(target)
        return figure

    def _badness(self, measure: str, row: str, column: str, panel: str) -> float:
        """Between 0 and 1, the mean over seeds; what never came is as bad as can be."""
        shown = MEASURES[measure]
        values = np.nan_to_num(self.cell(measure, row, column, panel), nan=shown.worst)
        return float(np.clip((values - shown.best) / (shown.worst - shown.best), 0, 1).mean())

    def _heat(self, axes: Axes, name: str, measure: Measure, panel: str) -> None:
        rows, columns = self.names(self.rows), self.names(self.columns)
        badness = np.array([[self._badness(name, row, column, panel) for column in columns] for row in rows])
        axes.imshow(badness, cmap="cividis_r", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), columns, fontsize=6, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(rows)), rows, fontsize=6)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for y, row in enumerate(rows):
            for x, column in enumerate(columns):
                axes.text(x, y, self.written(name, row, column, panel, short=True), ha="center", va="center",
                          fontsize=5, color="white" if badness[y, x] > 0.55 else "black", linespacing=0.95)  # fmt: skip


Place = tuple[str, ...]
"""Row, column, panel and seed."""


def judged(curves: Mapping[Place, pd.DataFrame]) -> Iterator[dict[str, Any]]:
    """The `MEASURES` of each run, from its measurements in time."""
    (row, column, *_), *_ = curves
    final = {place: curve.iloc[-1].to_dict() for place, curve in curves.items()}
    usual = [place for place in curves if place[:2] == (row, column)]
    goals = {panel: TARGET * fmean(final[place]["accuracy"] for place in usual if place[2] == panel)
             for _, _, panel, _ in usual}  # fmt: skip
    times = {place: _reached(curve, goals[place[2]]) for place, curve in curves.items()}
    for place, last in final.items():
        lost = max(0.0, 1 - last["accuracy"] / final[row, *place[1:]]["accuracy"])
        yield {
            "accuracy": last["accuracy"],
            "success": last.get("attack_success", lost),
            "false_positives": last.get("false_positives", 0.0),
            "slowdown": times[place] / times[row, column, *place[2:]],
        }


def _reached(curve: pd.DataFrame, accuracy: float) -> float:
    """When; NaN if never."""
    times, found = curve["time_s"].to_numpy(), curve["accuracy"].to_numpy()
    enough = np.flatnonzero(found >= accuracy)
    return float(times[enough[0]]) if len(enough) else nan
