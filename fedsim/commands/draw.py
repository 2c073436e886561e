"""Draw the network of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def draw(
    run: Annotated[Path, typer.Argument(help="A run folder.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Where to; none: network.png in the run folder.")] = None,
    animate: Annotated[bool, typer.Option("--animate", help="A GIF, a frame a measurement.")] = False,
) -> None:
    """Draw the network of a run: nodes by accuracy, links by load."""
    from fedsim.drawing import draw_network

    for target in draw_network(run, out, animate):
        typer.echo(f"wrote {target}")
