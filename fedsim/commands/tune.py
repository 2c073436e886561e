"""Choose parameters from recorded times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fedsim.commands.options import DataFolder, Json

WaitOut = Literal["pattern", "all"]


def coding(
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
