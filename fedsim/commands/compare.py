"""Compare algorithms over seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsim.commands.options import Json
from fedsim.commands.report import Runs


def compare(
    runs: Runs,
    target: Annotated[
        float | None, typer.Option(help="Of the metric: what reaching it costs; none: not asked.")
    ] = None,
    metric: Annotated[str, typer.Option(help="Such as accuracy or loss.")] = "accuracy",
    baseline: Annotated[str | None, typer.Option(help="Compare all with this algorithm; none: every two.")] = None,
    out: Annotated[Path | None, typer.Option(help="A PNG file for a picture of it.")] = None,
    as_json: Json = False,
) -> None:
    """Time, traffic and versions to a target, over seeds: intervals, paired tests, corrected for many comparisons."""
    from fedsim.contest import Contest

    contest = Contest.of(runs, metric, target, baseline)
    if out is not None:
        contest.draw(out)
    if as_json:
        typer.echo(json.dumps(contest.json()))
        return
    for table in contest.tables():
        Console().print(table)
    if out is not None:
        typer.echo(f"wrote {out}")
