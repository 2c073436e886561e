"""Metrics against what they cost: virtual time, traffic and versions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
import pandas as pd

from fedsim.intervals import mean_and_half
from fedsim.picture import SIZES, TIMES, unit_for
from fedsim.report.chart import PALETTE, Chart, figure
from fedsim.trials import Algorithm

COUNTS = {"time_s", "version", "updates", "lost", "bytes_down", "bytes_up", "bytes", "staleness"}
"""Columns of the metrics table that are no metrics."""
FIRST = ("accuracy", "loss", "merged_accuracy")
"""What models are judged by, the first that there is before the others."""
COSTS = {"time_s": "virtual time", "bytes": "traffic", "version": "versions"}
MOST_LINES = 12
MOST_POINTS = 1500
LEAST_RATIO = 5
"""Of the largest loss to the smallest, where they have a logarithmic axis."""
GRID = 160
"""So many points has a mean over seeds."""


def measured(runs: Algorithm) -> list[pd.DataFrame]:
    """The metrics tables of an algorithm's runs that have any rows yet, with their bytes in all."""
    frames = [run.metrics for run in runs.runs.values()]
    return [frame.assign(bytes=frame.bytes_down + frame.bytes_up) for frame in frames if len(frame)]


def metrics(algorithms: Sequence[Algorithm]) -> list[str]:
    """What was measured of any, the usual ones first; in their place updates where nothing was trained."""
    found = dict.fromkeys(name for one in algorithms for frame in measured(one) for name in frame if name not in COUNTS)
    usual = [name for name in FIRST if name in found]
    return [*(usual or ["updates"]), *(name for name in found if name not in usual)]


def curves(algorithms: Sequence[Algorithm], metric: str, costs: Sequence[str] = tuple(COSTS)) -> list[Chart]:
    """A chart a cost, a line an algorithm; over several seeds the mean, and its 95 % interval as a band."""
    tables = {one.label: [frame for frame in measured(one) if metric in frame] for one in algorithms}
    tables = {label: frames for label, frames in tables.items() if frames}
    drawn = _best(tables, metric)
    note = (
        f"{len(drawn)} of {len(tables)} algorithms are drawn, those that end best" if len(drawn) < len(tables) else ""
    )
    return [_chart({label: tables[label] for label in drawn}, metric, cost, note) for cost in costs if tables]


def _best(tables: dict[str, list[pd.DataFrame]], metric: str) -> list[str]:
    sign = -1 if "accuracy" in metric else 1
    ends = {label: sign * np.mean([frame[metric].iloc[-1] for frame in frames]) for label, frames in tables.items()}
    return sorted(sorted(ends, key=lambda label: ends[label])[:MOST_LINES], key=list(tables).index)


def _chart(tables: dict[str, list[pd.DataFrame]], metric: str, cost: str, note: str) -> Chart:
    unit, scale = _unit(cost, max(frame[cost].to_numpy().max() for frames in tables.values() for frame in frames))
    label = f"{COSTS[cost]} ({unit})" if unit else COSTS[cost]
    traces = [trace for place, (name, frames) in enumerate(tables.items())
              for trace in _line(escape(name), frames, metric, cost, scale, PALETTE[place % len(PALETTE)])]  # fmt: skip
    drawn = figure(traces, label, metric.replace("_", " "), showlegend=len(tables) > 1)
    if "loss" in metric:
        drawn["layout"]["yaxis"] |= _logarithmic(
            [frame[metric].to_numpy() for frames in tables.values() for frame in frames]
        )
    return Chart(f"{metric.replace('_', ' ')} by {COSTS[cost]}", drawn, note)


def _logarithmic(values: Sequence[np.ndarray]) -> dict[str, object]:
    """An axis with the 1, 2 and 5 of each power of ten in the range of these, if that is wide."""
    known = np.concatenate(values)
    low, high = known[known > 0].min(initial=np.inf), known.max(initial=0.0)
    if not low * LEAST_RATIO < high < np.inf:
        return {}
    powers = np.arange(np.floor(np.log10(low)), np.log10(high) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)][:: 1 if len(powers) < 4 else 3]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _unit(cost: str, largest: float) -> tuple[str, float]:
    units = {"time_s": TIMES, "bytes": SIZES}.get(cost)
    return unit_for(units, largest) if units else ("", 1.0)


def _line(
    name: str, frames: Sequence[pd.DataFrame], metric: str, cost: str, scale: float, colour: str
) -> Iterator[dict[str, object]]:
    """A run's own points, or the mean over seeds as far as all of them have come."""
    if len(frames) == 1:
        rows = frames[0].iloc[np.unique(np.linspace(0, len(frames[0]) - 1, MOST_POINTS).round().astype(int))]
        x, y = rows[cost].to_numpy() / scale, rows[metric].to_numpy()
    else:
        grid = np.linspace(0, min(frame[cost].max() for frame in frames), GRID)
        values = np.array([_at(frame, metric, cost, grid) for frame in frames])
        y, half = np.array([mean_and_half(column) for column in values.T.tolist()]).T
        x = grid / scale
        band = {"x": np.concatenate([x, x[::-1]]), "y": np.concatenate([y + half, (y - half)[::-1]])}
        yield {"type": "scatter", **band, "fill": "toself", "fillcolor": f"{colour}26", "line": {"width": 0},
               "hoverinfo": "skip", "showlegend": False, "legendgroup": name}  # fmt: skip
    yield {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": name, "legendgroup": name,
           "line": {"color": colour, "width": 2}}  # fmt: skip


def _at(frame: pd.DataFrame, metric: str, cost: str, grid: np.ndarray) -> np.ndarray:
    """What was measured last by each of these costs."""
    places = np.searchsorted(frame[cost].to_numpy(), grid, side="right") - 1
    return frame[metric].to_numpy()[np.maximum(places, 0)]
