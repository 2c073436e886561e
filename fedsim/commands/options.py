"""What several verbs of the command line ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ScenarioFile = Annotated[Path, typer.Argument(help="A scenario file (YAML).", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Changes, as local.steps=5.")]
DataFolder = Annotated[Path | None, typer.Option("--data", help="A folder to look for data in first.")]
Device = Annotated[str, typer.Option(help="Where numbers are computed: cpu, cuda, or cuda:1.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
