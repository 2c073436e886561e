"""Say what a scenario may hold."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fedsim.commands.options import Json


def schema() -> None:
    """Print the JSON Schema of scenario files, by which editors complete them."""
    from fedsim.scenario import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def list_(
    family: Annotated[str | None, typer.Argument(help="Such as aggregator; none: all.")] = None,
    name: Annotated[str | None, typer.Argument(help="Such as fedstale, or your own my_lab.rules:MyRule.")] = None,
    as_json: Json = False,
) -> None:
    """Every plug-in by family, with its arguments; or what one of them says of itself."""
    from fedsim.describe import describe, plugins

    if family and name:
        typer.echo(json.dumps(describe(family, name)) if as_json else describe(family, name))
        return
    known = plugins(family)
    if as_json:
        typer.echo(json.dumps(known))
        return
    for family, members in known.items():
        typer.echo(family)
        for name, arguments in members.items():
            typer.echo(f"  {name}({', '.join(arguments)})")
