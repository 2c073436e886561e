"""The command line."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from fedsim.commands import (
    calibrate,
    check,
    compare,
    data,
    deploy,
    describe,
    draw,
    figure,
    replay,
    report,
    resume,
    run,
    scorecard,
    sweep,
    trace,
    tune,
)
from fedsim.errors import ExtraMissing, Interrupted, RunFailed, ScenarioError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command()(run.run)
app.command("sweep")(sweep.sweep_)
app.command()(resume.resume)
app.command()(check.check)
app.command()(deploy.deploy)
app.command()(replay.replay)
app.command()(draw.draw)
app.command()(report.report)
app.command()(compare.compare)
app.command()(trace.trace)
app.command()(scorecard.scorecard)
app.command()(figure.figure)
app.command()(calibrate.calibrate)
app.command()(describe.schema)
app.command("list")(describe.list_)
app.command()(data.data)

choose = typer.Typer(no_args_is_help=True, help=tune.__doc__)
choose.command()(tune.coding)
app.add_typer(choose, name="tune")


def main() -> None:
    """Run the command line; every failure is a sentence and an exit code.

    1: it failed, 2: bad input, 3: it was stopped, 4: an extra is missing.
    """
    sys.path.append(str(Path.cwd()))  # so that a scenario may name plug-ins of the folder one works in
    try:
        app()
    except ScenarioError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(4 if isinstance(error, ExtraMissing) else 2)
    except Interrupted as error:
        typer.echo(str(error), err=True)
        sys.exit(3)
    except RunFailed as error:
        typer.echo(f"the run failed: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
