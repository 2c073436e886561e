"""Write a page about runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedsim.commands.options import Json

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)]


def report(
    runs: Runs,
    out: Annotated[Path | None, typer.Option(help="Where to; none: report.html in the run folder.")] = None,
    rate: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the bill, as gb_price=0.05.")] = None,
    client: Annotated[
        list[int] | None, typer.Option(help="Of a large fleet also what this one did; several times.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one HTML file that opens offline: charts, the fleet in time, where time went, the bill, the receipt."""
    from fedsim.bill import Rates
    from fedsim.report import write_report

    target = write_report(runs, out, Rates.of(rate or []), client or [])
    typer.echo(json.dumps({"path": str(target)}) if as_json else f"wrote {target}")
