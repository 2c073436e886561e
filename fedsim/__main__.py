"""The command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml
from rich.console import Console

from fedsim.errors import ExtraMissing, RunFailed, ScenarioError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

tune = typer.Typer(no_args_is_help=True, help="Choose parameters from recorded times.")
app.add_typer(tune, name="tune")

ScenarioFile = Annotated[Path, typer.Argument(help="A scenario file (YAML).", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Changes, as local.steps=5.")]
DataFolder = Annotated[Path | None, typer.Option("--data", help="A folder to look for data in first.")]
MANY = 24
"""More runs than this are no table that anybody reads."""

WaitOut = Literal["pattern", "all"]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command()
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
    from fedsim.terminal import ProgressBar, copies, epsilons, table, verdict

    changes = overrides or []
    arms = len(read(scenario, changes))
    with ProgressBar(Console(stderr=True), arms) as bar:
        result = conduct.run(scenario, *changes, data=data, out=out, workers=workers, watch=bar.watch,
                             finished=bar.finished)  # fmt: skip
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


@app.command()
def check(scenario: ScenarioFile, overrides: Overrides = None, data: DataFolder = None, as_json: Json = False) -> None:
    """Print the resolved scenario and what it will cost, without training anything."""
    from fedsim.conduct import foresee
    from fedsim.experiment import assemble
    from fedsim.scenario import read
    from fedsim.terminal import clock, traffic

    arms = read(scenario, overrides or [])
    costs = [foresee(assemble(arm, data)) for arm in arms]
    if as_json:
        pairs = zip(arms, costs, strict=True)
        typer.echo(json.dumps([{"label": a.label, "scenario": a.resolved, "cost": cost} for a, cost in pairs]))
        return
    for arm, cost in zip(arms, costs, strict=True):
        typer.echo(f"# {arm.label}\n{yaml.safe_dump(arm.resolved, sort_keys=False)}")
        typer.echo(
            f"# costs {clock(cost['time_s'])} of virtual time, {cost['versions']} versions, {cost['updates']} updates "
            f"({cost['lost']} lost), {traffic(cost['bytes_down'])} down, {traffic(cost['bytes_up'])} up, "
            f"about {traffic(cost['memory'])} of memory{cost['caveat']}\n"
        )


@tune.command("coding")
def tune_coding(
    profiles: Annotated[
        list[str],
        typer.Argument(
            metavar="LOAD=FILE[:TABLE]...",
            help="Recorded seconds, rounds x "
            "workers (CSV or .npz), of workers that looked at a part LOAD of the data: 0=idle.csv 1=all.csv.",
            show_default=False,
        ),
    ],
    models: Annotated[int, typer.Option(help="How many are trained in turn; bounds a code's delay.", min=1)] = 4,
    jobs: Annotated[int, typer.Option(help="Gradients that are replayed.", min=1)] = 80,
    mu: Annotated[float, typer.Option(help="Late is who needs more than 1 + MU times the fastest's time.", min=0)] = 1,
    wait_out: Annotated[
        WaitOut, typer.Option(help="What to wait for where a code cannot bear who is late.")
    ] = "pattern",
    window: Annotated[int, typer.Option(help="The longest window that is tried.", min=2)] = 10,
    slope: Annotated[
        float | None, typer.Option(help="Seconds for the whole data; none: fitted to the profiles.")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="A CSV file for all candidates.")] = None,
    data: DataFolder = None,
    as_json: Json = False,
) -> None:
    """Replay recorded times under every gradient code, and choose the fastest of each kind."""
    from fedsim.tune import tune_codes

    found = tune_codes(profiles, models, jobs, mu, wait_out, window, slope, data)
    if table is not None:
        found.write(table)
    typer.echo(found.json()) if as_json else found.show()


@app.command()
def draw(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Where to; none: network.png in the run folder.")] = None,
    animate: Annotated[bool, typer.Option("--animate", help="A GIF, a frame a measurement.")] = False,
) -> None:
    """Draw the network of a run: nodes by accuracy, links by load."""
    from fedsim.drawing import draw_network

    for target in draw_network(run, out, animate):
        typer.echo(f"wrote {target}")


@app.command()
def scorecard(
    run: Annotated[Path, typer.Argument(help="A run folder of a comparison by axes.", show_default=False)],
    rows: Annotated[str | None, typer.Option(help="Which axis is down; none: the first.")] = None,
    columns: Annotated[str | None, typer.Option(help="Which axis is across; none: the next.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to draw it; none: scorecard.png in the run folder.")] = None,
    as_json: Json = False,
) -> None:
    """Attack by defence by timing: accuracy, attack success, false positives and cost in time, with intervals."""
    from fedsim.results import load
    from fedsim.scorecard import Scorecard

    found = load(run)
    card = Scorecard.of(found, rows, columns)
    card.draw(out or found.path / "scorecard.png")
    if as_json:
        typer.echo(json.dumps(card.json()))
        return
    for table in card.tables():
        Console().print(table)
    typer.echo(f"wrote {out or found.path / 'scorecard.png'}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of scenario files, by which editors complete them."""
    from fedsim.scenario import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command("list")
def list_(
    family: Annotated[str | None, typer.Argument(help="Such as aggregator; none: all.")] = None,
    name: Annotated[str | None, typer.Argument(help="Such as fedstale, or your own my_lab.rules:MyRule.")] = None,
    as_json: Json = False,
) -> None:
    """Every plug-in by family, with its arguments; or what one of them says of itself."""
    from fedsim.describe import describe, plugins

    if family and name:
        typer.echo(json.dumps(describe(family, name)) if as_json else describe(family, name))
        return
    known = plugins(family)
    if as_json:
        typer.echo(json.dumps(known))
        return
    for family, members in known.items():
        typer.echo(family)
        for name, arguments in members.items():
            typer.echo(f"  {name}({', '.join(arguments)})")


@app.command()
def data(
    name: Annotated[str, typer.Argument(help="Such as fashion_mnist.")],
    folder: Annotated[Path, typer.Option("--data", help="Where to put it.")] = Path("data"),
) -> None:
    """Download a dataset (needs the network and the extra `hub`)."""
    from fedsim.data.fetch import fetch

    typer.echo(f"wrote {fetch(name, folder)}")


def main() -> None:
    """Run the command line; every failure is a sentence and an exit code (1 failed, 2 bad input, 4 extra missing)."""
    sys.path.append(str(Path.cwd()))  # so that a scenario may name plug-ins of the folder one works in
    try:
        app()
    except ScenarioError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(4 if isinstance(error, ExtraMissing) else 2)
    except RunFailed as error:
        typer.echo(f"the run failed: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
