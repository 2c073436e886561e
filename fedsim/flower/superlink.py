"""A SuperLink in virtual time: takes messages in, and says what has become of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import networkx as nx
from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp

from fedsim.carrier import Carrier
from fedsim.clock import CALENDAR, DEADLINE, Clock
from fedsim.fleet import Fleet
from fedsim.flower.internals import ErrorCode, call_it, said_by_superlink, unavailable
from fedsim.flower.keys import App
from fedsim.flower.parcel import Parcel
from fedsim.flower.supernode import SuperNode
from fedsim.flower.watch import EPOCH
from fedsim.progress import Progress
from fedsim.rng import key
from fedsim.server import presence
from fedsim.trace import ARRIVE, LOST, VERSION, Trace
from fedsim.units import SECOND


@dataclass(eq=False)
class Errand:
    """A message to a node, and at last the reply to it."""

    name: str
    """The message's id."""
    node: SuperNode
    parcel: Parcel
    version: int
    """Of the model that it carries."""
    expires: int
    """When its time to live is over, in microseconds."""
    reply: Message | None = None


@dataclass
class SuperLink:
    """What stands between the two halves of a Flower app, with Flower's error codes.

    A node works off one message at a time, in the order in which they were pushed. A message begun by a node that goes
    away, or whose link fails, is answered by NODE_UNAVAILABLE (5) after `heartbeat`; those that wait for it are too,
    unless it is back by then. A client that breaks is a ClientApp that dies: CLIENT_APP_CRASHED (8) after `heartbeat`,
    and the node does nothing until `drop.recovery` is over. A ClientApp that raises an exception replies at once
    (CLIENT_APP_RAISED_EXCEPTION, 2). After its time to live a message is answered by MESSAGE_UNAVAILABLE (3), and its
    reply refused.
    """

    fleet: Fleet
    graph: nx.Graph
    client_app: ClientApp
    run_config: Mapping[str, Any]
    terms: App
    trace: Trace
    progress: Progress
    clock: Clock = field(default_factory=Clock, init=False)
    errands: dict[str, Errand] = field(default_factory=dict, init=False)
    """Not yet handed out, by their messages' ids."""
    posted: int = field(default=0, init=False)
    models: dict[bytes, int] = field(default_factory=dict, init=False)
    """The version of each model that was sent, by its digest."""

    def __post_init__(self) -> None:
        self.carrier = Carrier(self.clock, self.graph)
        clients = len(self.fleet.devices)
        self.nodes = {node.context.node_id: node for node in (self.node(number, clients) for number in range(clients))}
        members = list(self.nodes.values())
        self.clock.start(presence(self.fleet, self.clock, lambda clients: [members[each].come() for each in clients],
                                  lambda clients: [members[each].go() for each in clients]), CALENDAR)  # fmt: skip

    @property
    def run_id(self) -> int:
        """The same under the same seed."""
        return key(self.fleet.seed, "run") % 2**63

    def node(self, number: int, clients: int) -> SuperNode:
        """A client's: its id has 64 bits, the same under the same seed."""
        name = key(self.fleet.seed, "node", number) % 2**64
        config: UserConfig = {"partition-id": number, "num-partitions": clients}
        return SuperNode(self, number, Context(self.run_id, name, config, RecordDict(), dict(self.run_config)))

    @property
    def version(self) -> int:
        """How many new models have followed the first. Models are known by their content, when they are first sent."""
        return max(0, len(self.models) - 1)

    @property
    def timestamp(self) -> float:
        """Unix time of virtual now."""
        return EPOCH + self.clock.now / SECOND

    def post(self, messages: Iterable[Message]) -> list[str]:
        """Take messages in: their ids; an empty one where there is no such node."""
        contents: dict[int, tuple[RecordDict, Parcel, int]] = {}
        return [self._post(message, contents) for message in messages]

    def _post(self, message: Message, contents: dict[int, tuple[RecordDict, Parcel, int]]) -> str:
        node = self.nodes.get(message.metadata.dst_node_id)
        if node is None:
            return ""
        content, name = message.content, sha256(f"{self.run_id} {self.posted}".encode()).hexdigest()
        self.posted += 1
        if id(content) not in contents:
            contents[id(content)] = content, Parcel.of(message), self.version_of(content)
        call_it(message, name)
        message.metadata.created_at = self.timestamp
        lifetime = round(message.metadata.ttl * SECOND)
        _, parcel, version = contents[id(content)]
        errand = Errand(name, node, parcel.addressed(message), version, self.clock.now + lifetime)
        self.errands[name] = errand
        self.clock.call(lifetime, DEADLINE, lambda: self.expire(errand))
        node.take(errand)
        return name

    def version_of(self, content: RecordDict) -> int:
        """Of the model among these records; if it is new, the server has stepped."""
        if not content.array_records:
            return self.version
        digest = sha256()
        for record in content.array_records.values():
            for name, array in record.items():
                digest.update(f"{name} {array.dtype} {array.shape} ".encode())
                digest.update(array.data)
        if digest.digest() not in self.models:
            self.models[digest.digest()] = len(self.models)
            if self.version:
                self.trace.add(self.clock.now, VERSION, -1, self.version)
                self.progress.stepped(self.version, self.clock.now)
        return self.models[digest.digest()]

    def answered(self, name: str) -> bool:
        """Whether there is something to be said about this message."""
        return name not in self.errands or self.errands[name].reply is not None

    def collect(self, names: Iterable[str]) -> list[Message]:
        """The replies that there are to these messages, each handed out once; about unknown ones an error."""
        found = []
        for name in names:
            if name not in self.errands:
                code = ErrorCode.MESSAGE_UNAVAILABLE
                found.append(said_by_superlink(self.run_id, name, code, self.timestamp))
            elif (reply := self.errands[name].reply) is not None:
                del self.errands[name]
                found.append(reply)
        return found

    def arrive(self, errand: Errand, parcel: Parcel) -> None:
        """A node has replied; what comes too late is refused."""
        now, client = self.clock.now, errand.node.number
        if self.answered(errand.name):
            self.trace.add(now, LOST, client, errand.version, parcel.nbytes)
            self.progress.failed()
            return
        staleness = self.version - errand.version
        self.trace.add(now, ARRIVE, client, errand.version, parcel.nbytes, staleness)
        self.progress.arrived(staleness)
        errand.reply = parcel.opened()

    def answer(self, errand: Errand, code: int) -> None:
        """An error in place of a reply, unless there is one already; of a dead app its node tells."""
        if errand.reply is None:
            crashed = code == ErrorCode.CLIENT_APP_CRASHED
            errand.reply = (
                Message(unavailable(code), reply_to=errand.parcel.opened())
                if crashed
                else said_by_superlink(self.run_id, errand.name, code, self.timestamp)
            )

    def expire(self, errand: Errand) -> None:
        """Its time to live is over, and nobody has fetched a reply."""
        if errand in errand.node.waiting:
            errand.node.waiting.remove(errand)
        errand.reply = None
        self.answer(errand, ErrorCode.MESSAGE_UNAVAILABLE)
