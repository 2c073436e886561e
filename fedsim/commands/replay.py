"""Replay a deployment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedsim.commands.options import DataFolder, Json, need_flower

TOLERANCE = 1e-6
"""Between models that were trained on the same machine in another company."""


def replay(
    run: Annotated[Path, typer.Argument(help="A deployment's run folder.", show_default=False)],
    data: DataFolder = None,
    out: Annotated[Path, typer.Option(help="Where the replay's run folder goes.")] = Path("replays"),
    as_json: Json = False,
) -> None:
    """Tell a server here what a deployment's server was told, in the same order, and compare the models."""
    need_flower()
    from fedsim.flower.replay import difference
    from fedsim.flower.replay import replay as replayed
    from fedsim.results import load

    found = load(run)
    again = replayed(found, out / found.label, data)
    apart, same = difference(found, again), again.receipt["trace"] == found.receipt["trace"]
    if as_json:
        typer.echo(json.dumps({"path": str(again.path), "largest_difference": apart, "same_trace": same}))
    else:
        told = "the same trace" if same else "another trace"
        typer.echo(f"{told}; models differ by at most {apart:g}\nrun folder: {again.path}")
    if not same or not apart <= TOLERANCE:
        raise typer.Exit(1)
