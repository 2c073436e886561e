"""Tabulate a grid of attacks and defences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsim.commands.options import Json


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
