"""Let devices carry out a scenario."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsim.commands.options import DataFolder, Json, Overrides, ScenarioFile, need_flower

if TYPE_CHECKING:
    from fedsim.flower.loopback import Loopback


def deploy(
    scenario: ScenarioFile,
    overrides: Overrides = None,
    data: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="Where to; none: deployments/<scenario>.")] = None,
    local: Annotated[int | None, typer.Option(help="Run it here, on so many SuperNodes: one a client.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Make keys: nobody else listens, nobody else takes part.")] = False,
    host: Annotated[str, typer.Option(help="The server's name or address, as devices reach it.")] = "localhost",
    devices: Annotated[int, typer.Option(help="So many have to be there at first; 0: all clients.")] = 0,
    answer_limit: Annotated[str, typer.Option(help="A device that is silent for longer counts as gone.")] = "10 min",
    throttle: Annotated[
        bool, typer.Option("--throttle", help="With --local: clients as slow as their devices in the scenario.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a scenario as a Flower app for devices, or run it on SuperNodes of this machine, into a run folder."""
    need_flower()
    from fedsim.errors import ScenarioError
    from fedsim.flower.authority import Keys
    from fedsim.flower.fitness import deployable
    from fedsim.flower.folder import Folder
    from fedsim.flower.loopback import Loopback
    from fedsim.units import duration

    try:
        limit = duration(answer_limit)
    except ValueError as error:
        raise ScenarioError(f"--answer-limit: {error}") from None
    experiment = deployable(scenario, overrides or [], data)
    clients = len(experiment.work.held)
    if local is not None and local != clients:
        raise ScenarioError(f"--local: {local} SuperNodes are not one for each of the scenario's {clients} clients "
                            f"(fleet.clients)")  # fmt: skip
    if not 0 <= devices <= clients:
        raise ScenarioError(f"--devices: {devices} are not between 0 and the scenario's {clients} clients")
    path = out or Path("deployments") / scenario.stem
    folder = Folder(path)
    folder.write(experiment.arm, devices, limit)
    if local is not None:
        run_here(folder.app, path, Loopback(path / "federation", clients, tls, data, throttle), as_json)
        return
    folder.explain(clients, host, Keys.made(path / "keys", clients, [host]) if tls else None)
    said = f"wrote a Flower app; {path / 'README.md'} says how to run it"
    typer.echo(json.dumps({"path": str(path)}) if as_json else said)


def run_here(app: Path, path: Path, loopback: Loopback, as_json: bool) -> None:
    """On this machine: start all, run, stop all, and say what came of it."""
    from rich.console import Console

    from fedsim.folder import clear
    from fedsim.results import load
    from fedsim.terminal import table

    run, console = path / "run", Console()
    clear(run)
    status = Console(stderr=True).status("starting")
    with ended_politely(), status, loopback:
        loopback.run(app, run, lambda: status.update(so_far(run)))
    result = load(run)
    if as_json:
        typer.echo(json.dumps({"path": str(run), "last": result.metrics.iloc[-1].to_dict()}))
        return
    console.print(table([result]))
    console.print(f"run folder: {run}", highlight=False, soft_wrap=True)


def so_far(run: Path) -> str:
    """What a run has come to."""
    from fedsim.results import load
    from fedsim.terminal import clock

    if not (run / "metrics.csv").exists():
        return "waiting for devices"
    last = load(run).metrics.iloc[-1].to_dict()
    shown = ", ".join(f"{name} {last[name]:g}" for name in ("version", "updates", "lost", "accuracy") if name in last)
    return f"{clock(last['time_s'])}: {shown}"


@contextmanager
def ended_politely() -> Iterator[None]:
    """Who ends this process ends what it has started too."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
