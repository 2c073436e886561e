"""Go on with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsim.commands.options import DataFolder, Device, Json

RunPath = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]


def resume(
    path: RunPath,
    data: DataFolder = None,
    workers: Annotated[int, typer.Option(help="Runs of a comparison at a time.", min=1)] = 1,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Go on with a run that was cut off, from its last checkpoint: it ends as if nothing had happened."""
    from fedsim import conduct
    from fedsim.commands.run import show
    from fedsim.results import load
    from fedsim.terminal import ProgressBar

    found, console = load(path), Console(stderr=True)
    if all(arm.finished for arm in found.arms):
        console.print(f"{path} is over already; nothing is left to do", highlight=False, soft_wrap=True)
    else:
        with ProgressBar(console, len(found.arms)) as bar:
            found = conduct.resume(
                path, data, workers, device, bar.watch, bar.finished,
                lambda line: console.print(line, highlight=False, soft_wrap=True),
            )  # fmt: skip
    show(found, as_json)
