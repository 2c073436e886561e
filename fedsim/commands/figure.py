"""Compute figures of papers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fedsim.commands.options import DataFolder, Json

Names = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Figures, papers, or all; none: list them.")]


def figure(
    names: Names = None,
    full: Annotated[bool, typer.Option("--full", help="The papers' sizes.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="One seed, and some figures smaller.")] = False,
    redraw: Annotated[bool, typer.Option("--redraw", help="Draw and judge the runs of last time; run none.")] = False,
    plots: Annotated[Path, typer.Option(help="Where the scripts are.")] = Path("plots"),
    out: Annotated[Path, typer.Option(help="Where pictures and runs go.")] = Path("figures"),
    workers: Annotated[int | None, typer.Option(help="Runs at a time; none: one a core.", min=1)] = None,
    data: DataFolder = None,
    as_json: Json = False,
) -> None:
    """Compute figures of papers and judge their claims, or list which there are."""
    from fedsim.gallery import PAGE, chosen, compute, scripts
    from fedsim.terminal import ProgressBar

    known = scripts(plots)
    if not names:
        _list(known, as_json)
        return
    asked = {"--full": full, "--quick": quick, "--redraw": redraw}
    options = [name for name, wanted in asked.items() if wanted]
    options += ["--data", str(data)] if data else []
    wanted = chosen(known, names)
    with ProgressBar(Console(stderr=True), len(wanted)) as bar:
        results = compute(wanted, out, options, workers or os.cpu_count() or 1, bar.finished)
    if as_json:
        typer.echo(json.dumps({"page": str(out / PAGE), "figures": [result.json() for result in results]}))
    else:
        for result in results:
            told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(result.counts.items()))
            typer.echo(f"{result.script.name}: {told}")
        typer.echo(f"wrote {out / PAGE}")
    raise typer.Exit(0 if all(result.sound for result in results) else 1)


def _list(known: list, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([{"figure": one.name, "paper": one.paper, "title": one.title, "setting": one.setting}
                               for one in known]))  # fmt: skip
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("paper", "figure", "what it shows"):
        table.add_column(column, overflow="fold")
    for one in known:
        table.add_row(one.paper, one.name, one.title)
    Console().print(table)
