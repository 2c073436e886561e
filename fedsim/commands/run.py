"""Run a scenario."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fedsim.commands.options import DataFolder, Json, Overrides, ScenarioFile
from fedsim.errors import ExtraMissing, ScenarioError

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
    flower_app: Annotated[
        Path | None, typer.Option(help="A Flower app to run in virtual time; FILE is a fleet file.")
    ] = None,
    run_config: Annotated[
        list[str] | None,
        typer.Option("--run-config", "-c", help="Changes to the Flower app's own run config, as for `flwr run`."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a scenario, or a Flower app on a fleet: print what it took and write a run folder."""
    from fedsim.terminal import copies, epsilons, table, verdict

    changes = overrides or []
    if flower_app is not None:
        result = run_flower_app(flower_app, scenario, *changes, run_config=run_config or [], data=data, out=out)
    elif run_config:
        raise ScenarioError("--run-config: changes the run config of a --flower-app, and there is none")
    else:
        result = run_scenario(scenario, *changes, data=data, out=out, workers=workers)
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


def run_scenario(scenario: Path, *changes: str, workers: int, **folders: Any) -> Run:
    """With a bar that shows how far it is."""
    from fedsim import conduct
    from fedsim.scenario import read
    from fedsim.terminal import ProgressBar

    arms = len(read(scenario, changes))
    with ProgressBar(Console(stderr=True), arms) as bar:
        return conduct.run(scenario, *changes, workers=workers, watch=bar.watch, finished=bar.finished, **folders)


def run_flower_app(app: Path, fleet_file: Path, *changes: str, **options: Any) -> Run:
    """With Flower's own log. ExtraMissing if there is no Flower."""
    try:
        from fedsim.flower.virtual import run_app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "flwr":
            raise
        raise ExtraMissing("a Flower app needs flwr: pip install 'fedsim-lab[flower]'") from error
    return run_app(app, fleet_file, *changes, **options)
