"""An unmodified Flower app, run in virtual time on a fleet and a network."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from logging import LogRecord, getLogger
from pathlib import Path
from time import monotonic
from typing import Any

from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from fedsim.data import data_folders
from fedsim.errors import RunFailed, ScenarioError, nearest
from fedsim.experiment import equipped, linked
from fedsim.fleet import Fleet
from fedsim.flower.addressed import addressed
from fedsim.flower.apps import FlowerApp
from fedsim.flower.internals import SUPERLINK_NODE_ID, acting
from fedsim.flower.keys import App, FleetFile
from fedsim.flower.superlink import SuperLink
from fedsim.flower.supernode import Nap
from fedsim.flower.virtual_grid import VirtualGrid
from fedsim.flower.watch import worn
from fedsim.folder import RunFolder
from fedsim.progress import Progress, Until
from fedsim.results import Run, load
from fedsim.scenario import Arm, checked, digest
from fedsim.trace import Trace
from fedsim.traffic import Federation, loaded


def run_app(
    app: Path | str,
    source: str | Path | Mapping[str, Any],
    *overrides: str,
    run_config: Sequence[str] = (),
    data: Path | None = None,
    out: Path | str = "runs",
) -> Run:
    """Run the Flower app of a folder on what a fleet file describes, and return the run folder, read.

    Args:
        app: a folder with a `pyproject.toml` as `flwr run` wants it.
        source: a fleet file, or the same as a mapping; see `FleetFile`.
        overrides: changes to it, such as `fleet.clients=5`.
        run_config: changes to the app's run config, such as `num-server-rounds=5`.
        data: where to look for recorded devices and networks first.
        out: the folder that run folders are put into, as <name of the app>/<digest of all that decides the run>.

    Raises:
        ScenarioError: before anything has run, if app or fleet file are at fault.
        RunFailed: if the ServerApp raises an exception, or waits for ever.
    """
    arm, flower = checked(FleetFile, source, overrides), FlowerApp.read(Path(app), run_config)
    given = {"seed": arm.keys.seed, "folders": data_folders(data, arm.keys.folder), "clients": arm.keys.fleet.clients}
    fleet, terms = equipped(arm, given), arm.build({}, "app")
    graph = linked(arm, given, fleet)
    refuse_unpriced(arm, fleet, terms, flower.run_config)
    path, began = Path(out) / flower.name / digest([arm.resolved, flower.run_config, flower.digest]), monotonic()
    with addressed(fleet.seed, "server"), worn(Nap(0)), flower.loaded() as (server, client):
        folder, trace = RunFolder(path, arm.resolved), Trace(path / "trace.parquet")
        progress = Progress(Until(time=terms.limit), terms.limit, evaluate=lambda told: told, record=folder.refresh)
        link = SuperLink(fleet, graph, client, flower.run_config, terms, trace, progress)
        try:
            serve(server, VirtualGrid(link))
        except Exception as error:
            folder.failure(error)
            raise
        finally:
            folder.tables(progress)
            trace.flush()
            folder.links(loaded(graph, load(path).trace, Federation.of(arm.resolved)))
    folder.receipt(_receipt(arm, flower, link, monotonic() - began))
    return load(path)


def serve(server: ServerApp, grid: VirtualGrid) -> None:
    """Run a ServerApp to its end.

    Raises:
        RunFailed: if it raises an exception, if the run has failed whatever it makes of that, or if it waits for ever.
    """
    link = grid.link
    context = Context(link.run_id, SUPERLINK_NODE_ID, {}, RecordDict(), dict(link.run_config))
    try:
        with worn(grid), acting(link.run_id), told_once():
            server(grid, context)
    except RunFailed:
        raise
    except Exception as error:  # apps raise all kinds
        raise grid.failure or RunFailed(f"the ServerApp raised {type(error).__name__}: {error}") from error
    if grid.failure is not None:
        raise grid.failure
    link.progress.finish(grid, grid.now)


@contextmanager
def told_once() -> Iterator[None]:
    """Flower's log without lines that say what the last one said: it tells every second that it waits for nodes."""
    last: list[str] = [""]

    def is_new(record: LogRecord) -> bool:
        before, last[0] = last[0], record.getMessage()
        return last[0] != before or not before.strip()

    logger = getLogger("flwr")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


def refuse_unpriced(arm: Arm, fleet: Fleet, terms: App, run_config: Mapping[str, Any]) -> None:
    """ScenarioError where nobody could say what the app's work takes, or who takes part is not the app's choice."""
    if not fleet.complete:
        raise ScenarioError(f"{arm.place(('fleet', 'participation'))}: fleet.participation: a Flower app asks whom it "
                            "likes; for clients that come and go take availability")  # fmt: skip
    timed = all(each.seconds_per_example or each.per_training for each in fleet.devices)
    if terms.flops is None and not timed:
        raise ScenarioError(f"{arm.place(('app',))}: app.flops: is missing: what a training example takes, as devices "
                            f"{arm.keys.fleet.devices.name} have no measured times")  # fmt: skip
    if isinstance(terms.passes, str) and not isinstance(run_config.get(terms.passes), int):
        raise ScenarioError(f"{arm.place(('app', 'passes'))}: app.passes: the app's run config has no whole number "
                            f"{terms.passes!r}; {nearest(terms.passes, run_config)}")  # fmt: skip


def _receipt(arm: Arm, app: FlowerApp, link: SuperLink, seconds: float) -> dict[str, Any]:
    progress, trace = link.progress, link.trace
    return {
        "scenario": arm.digest,
        "seed": arm.keys.seed,
        "app": {"name": app.name, "sha256": app.digest, "run_config": app.run_config},
        "versions": {"python": platform.python_version(), **{
            name: version(name) for name in ("fedsim-lab", "flwr", "numpy", "simpy", "torch")}},
        "counts": {"versions": progress.version, "updates": progress.updates, "lost": progress.lost,
                   "bytes_down": progress.down, "bytes_up": progress.up},
        "trace": {"rows": trace.count, "sha256": trace.digest()},
        "wall_seconds": round(seconds, 3),
    }  # fmt: skip
