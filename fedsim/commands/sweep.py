"""Run a scenario many times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsim.commands.options import DataFolder, Device, Json, ScenarioFile

Axes = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUES...", help="Axes, as seed=0..9; or changes.")]


def sweep_(
    scenario: ScenarioFile,
    axes: Axes = None,
    data: DataFolder = None,
    out: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    workers: Annotated[int | None, typer.Option(help="Processes; none: one a core.", min=1)] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew, even what is finished.")] = False,
    device: Device = "cpu",
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="On this Ray cluster; or `local`.")] = None,
    as_json: Json = False,
) -> None:
    """Run every combination of values: what is finished stays, and a run that fails stops no other."""
    from fedsim.axes import override
    from fedsim.summary import summary
    from fedsim.sweeping import sweep
    from fedsim.terminal import METRICS, ProgressBar, summed

    changes = [override(text) for text in axes or []]
    with ProgressBar(Console(stderr=True), arms=1) as bar:
        found = sweep(scenario, *changes, data=data, out=out, workers=workers, fresh=fresh, ray=ray,
                      device=device, finished=bar.finished)  # fmt: skip
    failed = [run for run in found.arms if not run.finished]
    if as_json:
        lines = [line.json(["time_s", "version", "updates", *METRICS]) for line in summary(found)]
        failures = {run.label: run.failure for run in failed}
        typer.echo(json.dumps({"path": str(found.path), "summary": lines, "failed": failures}))
    else:
        console = Console()
        console.print(summed(summary(found)))
        console.print(f"run folder: {found.path}", highlight=False, soft_wrap=True)
    for run in failed:
        typer.echo(f"{run.label} failed: {run.failure}", err=True)
    raise typer.Exit(1 if failed else 0)
