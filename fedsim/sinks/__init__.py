"""Where runs can be written to, beside their folders: Perfetto's and trackers' own forms."""

from collections.abc import Callable, Iterator
from pathlib import Path

from fedsim.errors import ScenarioError, nearest
from fedsim.results import Run
from fedsim.sinks import event_files, mlflow_store, perfetto, wandb_folder

TRACKERS: dict[str, Callable[[Run, Path], None]] = {
    "tensorboard": event_files.write,
    "mlflow": mlflow_store.write,
    "wandb": wandb_folder.write,
}
"""What `fedsim trace --to` can name: each takes a run, and a folder to write to."""


def written(run: Run, out: Path | None = None, to: tuple[str, Path] | None = None) -> Iterator[Path]:
    """Write a run, or all arms of a comparison, for Perfetto or a tracker; each file or folder when it is written.

    Raises:
        ScenarioError: if there is no such tracker, both are asked for, or several arms cannot all go to `out`.
        ExtraMissing: if the tracker is not installed.
    """
    if to is not None and to[0] not in TRACKERS:
        raise ScenarioError(f"--to {to[0]}: there is no such tracker; {nearest(to[0], TRACKERS)}")
    if to is not None and out is not None:
        raise ScenarioError("--out is for traces, --to for trackers: expected one of them")
    if out is not None and len(run.arms) > 1:
        raise ScenarioError(f"{run.path} compares {len(run.arms)} runs: name the folder of one, or leave out --out")
    for arm in run.arms:
        name, target = to or ("", out or arm.path / "trace.json")
        TRACKERS.get(name, perfetto.write)(arm, target)
        yield target


__all__ = ["TRACKERS", "written"]
