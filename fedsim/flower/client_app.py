"""One client of a scenario, as Flower's ClientApp. Flower starts a process for each message: imports are to be few."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedsim.flower.device import Device
from fedsim.flower.fitness import deployable
from fedsim.flower.letters import answer_written, forgotten_written, introduction_written, read_order
from fedsim.flower.words import Forgotten


def client_app(scenario: Path) -> ClientApp:
    """The app of all devices. A node's configuration says which client it is, and where it finds and keeps what.

    `partition-id` is the client's number, `data` a folder to look for data in, `state-dir` the folder for what
    trainings leave with the client. With `throttle` it is as slow as the client's device in the scenario.
    """
    app, assembled = ClientApp(), cache(deployable)

    def device(context: Context) -> Device:
        node = context.node_config
        data = Path(str(node["data"])) if "data" in node else None
        client = int(node["partition-id"])
        diary = Path(str(node.get("state-dir", "state"))) / f"client-{client}-run-{context.run_id}.safetensors"
        return Device(assembled(scenario, (), data), client, diary, bool(node.get("throttle", False)))

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
