"""A run as TensorBoard reads it: steps are versions, and its clock shows virtual time."""

from __future__ import annotations

from pathlib import Path

from fedsim.errors import ExtraMissing
from fedsim.results import Run
from fedsim.sinks.rows import scalars


def write(run: Run, target: Path) -> None:
    """Write a run's measurements into a folder of event files. ExtraMissing without tensorboard."""
    try:
        from tensorboard.summary import Writer  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ExtraMissing("this needs tensorboard: pip install 'fedsim-lab[trackers]'") from error
    writer = Writer(str(target / run.label))
    for version, seconds, values in scalars(run):
        for name, value in values.items():
            writer.add_scalar(name, value, version, wall_time=seconds)
    writer.close()
