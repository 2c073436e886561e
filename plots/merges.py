"""What the figures of the single merge have in common: the agents' size in full, and their runs arm by arm."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from figure import Figure

RESNET = (
    "model={resnet: {width: 64, blocks: [2, 2, 2, 2]}}",
    "data={cifar10: {partition: {resampled: {alpha: 0.1, size: 4096}}}}",
    "local.steps=100",
)
FULL = (*RESNET, "fleet.clients=32", "until.versions=300", "local.batch=128")
QUICK = ("until.versions=20",)

Runs = dict[str, list[pd.DataFrame]]


def runs_of(figure: Figure, names: Sequence[str], full: Sequence[str] = FULL) -> Runs:
    """Run the figure's own scenario once a seed: for each of its arms, by name, the metrics seed by seed."""
    arms = {seed: (f"seed={seed}", *figure.sized(full, QUICK)) for seed in figure.seeds(3)}
    runs: Runs = {name: [] for name in names}
    for run in figure.runs(f"{figure.stem}.yaml", arms).values():
        for name, arm in zip(names, run.arms, strict=True):
            runs[name].append(arm.metrics)
    return runs
