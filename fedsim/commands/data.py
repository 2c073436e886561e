"""Download data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def data(
    name: Annotated[str, typer.Argument(help="Such as fashion_mnist.")],
    folder: Annotated[Path, typer.Option("--data", help="Where to put it.")] = Path("data"),
) -> None:
    """Download a dataset (needs the network and the extra `hub`)."""
    from fedsim.data.fetch import fetch

    typer.echo(f"wrote {fetch(name, folder)}")
