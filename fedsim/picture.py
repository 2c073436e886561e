"""A run at a glance: its metric against what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from fedsim.results import Run

AXES = {"virtual time (h)": ("time_s", 3600), "traffic (GB)": ("bytes", 1e9), "server versions": ("version", 1)}


def draw(runs: Sequence[Run], target: Path, title: str, note: str = "") -> None:
    """One panel a cost, one line a run; `note` says what about the fleet is synthetic."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(1, len(AXES), sharey=True)
    for axis, (label, (column, unit)) in zip(axes, AXES.items(), strict=True):
        for run in runs:
            frame = run.metrics.assign(bytes=lambda f: f.bytes_down + f.bytes_up)
            metric = "accuracy" if "accuracy" in frame else "updates"
            axis.plot(frame[column] / unit, frame[metric], label=run.label, drawstyle="steps-post", linewidth=1.8)
            axis.set(xlabel=label, xlim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test accuracy" if metric == "accuracy" else "updates heard")
    axes[0].legend(frameon=False)
    if note:
        figure.text(0.995, 0.005, note, ha="right", va="bottom", fontsize=7, color="grey")
    temporary = target.with_suffix(".tmp")
    figure.savefig(temporary, dpi=150, format="png")
    temporary.rename(target)
