"""Write a run for other tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedsim.commands.options import Json


def trace(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Where to; none: trace.json in the run folder.")] = None,
    to: Annotated[tuple[str, Path] | None, typer.Option(
        metavar="NAME DIR", help="In place of that: tensorboard, mlflow or wandb, and a folder.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Write a trace that ui.perfetto.dev opens, or a run's measurements for a tracker. Of a comparison one an arm."""
    from fedsim.results import load
    from fedsim.sinks import written

    targets = [str(path) for path in written(load(run), out, to)]
    typer.echo(json.dumps({"paths": targets}) if as_json else "\n".join(f"wrote {target}" for target in targets))
