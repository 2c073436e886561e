"""What several verbs of the command line ask for."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from fedsim.errors import ExtraMissing

ScenarioFile = Annotated[Path, typer.Argument(help="A scenario file (YAML).", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Changes, as local.steps=5.")]
DataFolder = Annotated[Path | None, typer.Option("--data", help="A folder to look for data in first.")]
Device = Annotated[str, typer.Option(help="Where numbers are computed: cpu, cuda, or cuda:1.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def need_flower() -> None:
    """ExtraMissing if there is no Flower."""
    if find_spec("flwr") is None:
        raise ExtraMissing("devices need flwr: pip install 'fedsim-lab[flower]'")
