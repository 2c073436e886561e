"""Run a scenario."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedsim.commands.options import DataFolder, Json, Overrides, ScenarioFile

if TYPE_CHECKING:
    from fedsim.results import Run

MANY = 24
"""More runs than this are no table that anybody reads."""


def run(
    scenario: ScenarioFile,
    overrides: Overrides = None,
    data: DataFolder = None,
    out: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    workers: Annotated[int, typer.Option(help="Runs of a comparison at a time.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Run a scenario: print what it took and write a run folder."""
    from fedsim import conduct
    from fedsim.scenario import read
    from fedsim.terminal import ProgressBar

    changes = overrides or []
    arms = len(read(scenario, changes))
    with ProgressBar(Console(stderr=True), arms) as bar:
        result = conduct.run(scenario, *changes, data=data, out=out, workers=workers, watch=bar.watch,
                             finished=bar.finished)  # fmt: skip
    show(result, as_json)


def show(result: Run, as_json: bool) -> None:
    """Print what a run has come to."""
    from fedsim.terminal import copies, epsilons, table, verdict

    if as_json:
        last = {arm.label: arm.metrics.iloc[-1].to_dict() for arm in result.arms}
        typer.echo(json.dumps({"path": str(result.path), "runs": last}))
        return
    console = Console()
    many = len(result.arms) > MANY
    console.print(f"{len(result.arms)} runs" if many else table(result.arms))
    for line in [] if many else verdict(result.arms) + copies(result.arms) + epsilons(result.arms):
        console.print(line, highlight=False)
    console.print(f"run folder: {result.path}", highlight=False, soft_wrap=True)
