"""The server of a scenario, as Flower's ServerApp."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedsim.conduct import Federated, conduct
from fedsim.flower.fitness import deployable
from fedsim.flower.post import Post
from fedsim.flower.server import Deployment
from fedsim.flower.wall import Wall
from fedsim.folder import clear
from fedsim.results import Run
from fedsim.server import ServerSimulation
from fedsim.units import SECOND


def server_app(scenario: Path) -> ServerApp:
    """The app of the server: it writes a run folder, as a simulation does. The app's configuration says how."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        serve(scenario, grid, context.run_config)

    return app


def serve(scenario: Path, grid: Grid, config: Mapping[str, Any], wall: Wall | None = None) -> Run:
    """Run a scenario's server over a grid.

    Of its configuration `out` is the run folder, `devices` how many have to be there before it begins (0: all clients),
    `answer-limit` after how many seconds of silence a device counts as gone, and `data` a folder to look for data in.

    Raises:
        RunFailed: with the reason, which the run folder names too.
    """
    experiment = deployable(scenario, data=Path(config["data"]) if config.get("data") else None)
    out = Path(config["out"])
    clear(out)

    def live(simulation: Federated) -> Deployment:
        assert isinstance(simulation, ServerSimulation)
        return Deployment(
            simulation.world, simulation.aggregator, simulation.work, simulation.progress, wire=simulation.wire,
            post=Post(grid), scenario=experiment.arm.digest, devices=config["devices"] or len(simulation.work.held),
            answer_limit=round(config["answer-limit"] * SECOND), wall=wall or Wall(),
            private=experiment.trainer.private is not None,
        )  # fmt: skip

    return conduct(experiment, out, live=live)
