"""Fit a fleet to recorded runs, and say how well it foretells them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsim.commands.options import DataFolder, Json


def calibrate(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one fleet, a folder an algorithm.")],
    out: Annotated[Path, typer.Option(help="For the fitted devices, the replicas' runs and card.json.")] = Path(
        "calibration"
    ),
    replicas: Annotated[int, typer.Option(help="Simulations of each run.", min=2)] = 20,
    target: Annotated[
        float | None, typer.Option(help="The accuracy that is timed; none: what all runs have held.")
    ] = None,
    page: Annotated[
        bool, typer.Option("--report", help="Write a page on these runs, with the card, beside it.")
    ] = False,
    data: DataFolder = None,
    as_json: Json = False,
) -> None:
    """Sim to real: fit devices to half of recorded runs, replay on them, and compare with the other half."""
    from fedsim.card import calibrate
    from fedsim.results import load

    found = calibrate([arm for path in runs for arm in load(path).arms], out, replicas, target, data)
    if page:
        from fedsim.report import write_report

        write_report(runs, out / "report.html", card=found)
    if as_json:
        typer.echo(found.json())
        return
    Console().print(found.table())
    typer.echo(f"wrote {out / 'card.json'}" + (f" and {out / 'report.html'}" if page else ""))
