"""A grid without Flower's processes: nodes are apps in this one, and time passes as it is told to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun
from flwr.supercore.task_identity import TaskIdentity

from fedsim.flower import server
from fedsim.flower.client_app import client_app
from fedsim.flower.server_app import serve
from fedsim.flower.wall import Wall
from fedsim.results import Run

Behaviour = Callable[[Message, Callable[[Message], Message]], Message | None]
"""What a node makes of a message, and of what its app would answer; None: it says nothing, ever."""
FIRST_NODE = 2**63 + 5


def honest(message: Message, app: Callable[[Message], Message]) -> Message | None:
    """What the app says."""
    return app(message)


@dataclass
class PaperWall(Wall):
    """A clock that goes on by 10 ms whenever somebody looks away."""

    time: int = 0

    def start(self) -> None:
        """This is time 0."""
        self.time = self.epoch = 0

    @property
    def now(self) -> int:
        """Microseconds since time 0."""
        return self.time

    def rest(self) -> None:
        """Look away."""
        self.time += 10_000


@dataclass
class Node:
    """One device."""

    client: int
    folder: Path
    seconds: Sequence[float] = (1.0,)
    """What its trainings take, in turn."""
    behaviour: Behaviour = honest
    comes: float = 0.0
    """Seconds; when it goes: see `goes`."""
    goes: float = float("inf")
    trainings: int = 0

    def here(self, now: float) -> bool:
        """Whether it is there."""
        return self.comes <= now < self.goes


@dataclass
class PaperGrid(Grid):
    """Nodes by their numbers, which have 64 bits."""

    app: ClientApp
    nodes: dict[int, Node]
    wall: PaperWall
    ready: dict[str, tuple[int, Message]] = field(default_factory=dict)
    pushed: list[Message] = field(default_factory=list)

    def set_run(self, run: FlowerRun) -> None:
        """Not needed."""

    @property
    def run(self) -> FlowerRun:
        """Some run."""
        return FlowerRun.create_empty(1)

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        """Not used."""
        raise NotImplementedError

    def here(self, node: Node) -> bool:
        """Whether it is there now."""
        return node.here(self.wall.now / 1e6)

    def get_node_ids(self) -> Iterable[int]:
        """Those who are there, in no order that means anything."""
        return [number for number, node in reversed(self.nodes.items()) if self.here(node)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Every node answers after its time."""
        names = []
        for message in messages:
            name = f"message {len(self.pushed)}"
            message.metadata.__dict__["_message_id"] = name
            self.pushed.append(message)
            node, waits = self.nodes[message.metadata.dst_node_id], 0.0
            if message.metadata.message_type == "train":
                waits = node.seconds[min(node.trainings, len(node.seconds) - 1)]
                node.trainings += 1
            reply = self.answer(node, copy.copy(message)) if self.here(node) else gone(message)
            if reply is not None:
                self.ready[name] = self.wall.now + round(waits * 1e6), reply
            names.append(name)
        return names

    def answer(self, node: Node, message: Message) -> Message | None:
        """As Flower's runtime does: whatever an app raises is an error of code 2."""
        context = Context(1, 7, {"partition-id": node.client, "state-dir": str(node.folder)}, RecordDict(), {})
        try:
            return node.behaviour(message, lambda message: self.app(message, context))
        except Exception as fault:
            return Message(Error(2, f"{type(fault)}:<'{fault}'>"), reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """What is ready, last first."""
        due = [name for name in message_ids if name in self.ready and self.ready[name][0] <= self.wall.now]
        return [self.ready.pop(name)[1] for name in reversed(due)]

    def send_and_receive(self, messages, *, timeout=None):
        """Not used."""
        raise NotImplementedError


def gone(message: Message) -> Message:
    """What Flower says for a node that is not there."""
    return Message(Error(5, "the node is unavailable"), reply_to=message)


@contextmanager
def task_identity() -> Iterator[None]:
    """Messages can be written in this process, as if Flower had started it."""
    names = ("_task_id", "_run_id", "_node_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 0, 1, 1
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


def deployed(
    folder: Path, scenario: Mapping[str, Any], nodes: Sequence[Node] | None = None, **config: Any
) -> tuple[Run, PaperGrid]:
    """Run a scenario over a paper grid: one honest node a client, if not said otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    path, wall = folder / "scenario.yaml", PaperWall()
    path.write_text(yaml.safe_dump(dict(scenario)))
    if nodes is None:
        nodes = [Node(client, folder / "state") for client in range(scenario["fleet"]["clients"])]
    grid = PaperGrid(client_app(path), {FIRST_NODE + place: node for place, node in enumerate(nodes)}, wall)
    settings = {"out": str(folder / "run"), "devices": 0, "answer-limit": server.ANSWER_LIMIT / 1e6} | config
    with task_identity():
        return serve(path, grid, settings, wall), grid
