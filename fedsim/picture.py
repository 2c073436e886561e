"""A run at a glance: its metric against what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedsim.results import Run
from fedsim.style import LOOKS, PAGE, SMALL

TIMES = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
SIZES = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
LABELS = {"accuracy": "test accuracy", "loss": "test loss", "updates": "updates heard"}
"""What may be drawn, the first that all runs have; losses on a logarithmic scale."""


@rc_context(LOOKS)
def draw(runs: Sequence[Run], target: Path, title: str, note: str) -> None:
    """One panel a cost, one line a run; `note` says where the fleet's speeds come from. Writes a PNG to `target`."""
    frames = {run.label: run.metrics.assign(bytes=lambda f: f.bytes_down + f.bytes_up) for run in runs}
    metric = next(name for name in LABELS if all(name in frame for frame in frames.values()))
    merged = f"merged_{metric}"
    time, seconds = unit_for(TIMES, max(frame.time_s.max() for frame in frames.values()))
    size, nbytes = unit_for(SIZES, max(frame.bytes.max() for frame in frames.values()))
    figure = Figure(figsize=(PAGE, 2.6))
    figure.suptitle(title)
    figure.supxlabel(note, fontsize=SMALL, color="grey", x=0.99, ha="right")
    costs = (("time_s", seconds, f"virtual time ({time})"), ("bytes", nbytes, f"traffic ({size})"),
             ("updates", 1, "updates heard"))  # fmt: skip
    panels: Sequence[Axes] = figure.subplots(1, len(costs), sharey=True)
    for axes, (column, unit, label) in zip(panels, costs, strict=True):
        for name, frame in frames.items():
            [line] = axes.plot(frame[column] / unit, frame[metric], label=name)
            if merged in frame:
                axes.plot(frame[column] / unit, frame[merged], ":", color=line.get_color())
        axes.set(xlabel=label, xlim=(0, None))
    dotted = any(merged in frame for frame in frames.values())
    panels[0].set_ylabel(LABELS[metric] + ("; dotted: if all peers were merged" if dotted else ""))
    if metric == "loss":
        panels[0].set_yscale("log")
    panels[0].legend()
    temporary = target.with_suffix(".tmp")
    figure.savefig(temporary, format="png")
    temporary.rename(target)


def unit_for(units: dict[str, float], largest: float) -> tuple[str, float]:
    """The largest unit of which there are at least two."""
    return [(name, scale) for name, scale in units.items() if largest >= 2 * scale or scale == min(units.values())][-1]
