"""The two halves of a Flower app: a scenario's server, and one of its clients."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedsim.conduct import Federated, conduct
from fedsim.errors import ScenarioError
from fedsim.experiment import Experiment, assemble
from fedsim.flower.device import Device
from fedsim.flower.fitness import refuse_undeployable
from fedsim.flower.letters import answer_written, forgotten_written, introduction_written, read_order
from fedsim.flower.post import Post
from fedsim.flower.server import Deployment
from fedsim.flower.wall import Wall
from fedsim.flower.words import Forgotten
from fedsim.results import Run
from fedsim.scenario import read
from fedsim.server import ServerSimulation
from fedsim.units import SECOND


@cache
def experiment_of(scenario: Path, data: Path | None) -> Experiment:
    """What both halves are made of. ScenarioError if that is not one run, or nothing for devices."""
    arms = read(scenario)
    if len(arms) > 1:
        raise ScenarioError(f"{scenario}: compare: devices carry out one run, and this is {len(arms)}")
    experiment = assemble(arms[0], data)
    refuse_undeployable(experiment)
    return experiment


def client_app(scenario: Path) -> ClientApp:
    """The app of all devices. A node's configuration says which client it is, and where it finds and keeps what.

    `partition-id` is the client's number, `data` a folder to look for data in, `state-dir` the folder for what
    trainings leave with the client.
    """
    app = ClientApp()

    def device(context: Context) -> Device:
        node = context.node_config
        data = Path(str(node["data"])) if "data" in node else None
        client = int(node["partition-id"])
        diary = Path(str(node.get("state-dir", "state"))) / f"client-{client}-run-{context.run_id}.safetensors"
        return Device(experiment_of(scenario, data), client, diary)

    @app.query()
    def introduce(message: Message, context: Context) -> Message:
        return Message(introduction_written(device(context).introduce()), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        try:
            content = answer_written(device(context).answer(read_order(message.content)))
        except Forgotten as reason:
            content = forgotten_written(reason)
        return Message(content, reply_to=message)

    return app


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
    experiment = experiment_of(scenario, Path(config["data"]) if config.get("data") else None)
    out = Path(config["out"])
    if out.exists() and not (out / "scenario.yaml").exists():
        raise ScenarioError(f"out: {out} is there already, and is no run folder that could be replaced")

    def live(simulation: Federated) -> Deployment:
        assert isinstance(simulation, ServerSimulation)
        return Deployment(
            simulation.world, simulation.aggregator, simulation.work, simulation.progress, wire=simulation.wire,
            post=Post(grid), scenario=experiment.arm.digest, devices=config["devices"] or len(simulation.work.held),
            answer_limit=round(config["answer-limit"] * SECOND), wall=wall or Wall(),
        )  # fmt: skip

    return conduct(experiment, out, live=live)
