"""A run as Weights & Biases keeps it offline; `wandb sync` is the user's to call."""

from __future__ import annotations

from pathlib import Path

from fedsim.errors import ExtraMissing
from fedsim.results import Run
from fedsim.sinks.rows import parameters, scalars


def write(run: Run, target: Path) -> None:
    """Write a run's measurements and scenario into a folder, without any network. ExtraMissing without wandb."""
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ExtraMissing("this needs wandb: pip install 'fedsim-lab[trackers]'") from error
    target.mkdir(parents=True, exist_ok=True)
    kept = wandb.init(mode="offline", dir=str(target), project="fedsim", name=run.label, config=parameters(run))
    for version, seconds, values in scalars(run):
        kept.log({"version": version, "time_s": seconds, **values})
    kept.finish()
