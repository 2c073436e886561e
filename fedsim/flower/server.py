"""Any server algorithm over a grid of devices: what it starts is sent, and what comes back it is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from logging import getLogger
from math import inf
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, MessageType, RecordDict

from fedsim.clock import Cut
from fedsim.errors import Stalled
from fedsim.flower.letters import model_written, order_written, read_answer, read_introduction
from fedsim.flower.live import LiveCell, Timed
from fedsim.flower.post import Errand, Post
from fedsim.flower.wall import Wall
from fedsim.flower.words import NONE_YET, Answer, Forgotten, Garbled, Order
from fedsim.units import SECOND, written_duration
from fedsim.wire.sending import Sending
from fedsim.work import Deferred, LocalResult, LocalTask

log = getLogger(__name__)

ANSWER_LIMIT = 600 * SECOND
"""A device that has said nothing for so long counts as gone, until it does."""
COMPANY_LIMIT = 600 * SECOND
"""So long a server waits for devices, when there are too few to begin or to go on with."""
VAIN = 10
"""So many losses and refusals a client without one step between them mean that no step will come."""


@dataclass
class Deployment(LiveCell):
    """One server algorithm and its devices, from their introductions to the last measurement."""

    post: Post = field(kw_only=True)
    scenario: str = field(kw_only=True)
    """Its digest; whoever has been given another one is not asked."""
    devices: int = field(kw_only=True)
    """So many have to be there before time 0."""
    private: bool = False
    """Whether devices add noise to their gradients."""
    answer_limit: int = ANSWER_LIMIT
    wall: Wall = field(default_factory=Wall)
    known: set[int] = field(default_factory=set, init=False)
    """Nodes that have been asked who they are."""
    nodes: dict[int, int] = field(default_factory=dict, init=False)
    """Each client's, of those who are there."""
    errands: dict[int, Errand] = field(default_factory=dict, init=False)
    """What each client was asked for last."""
    heard: dict[int, int] = field(default_factory=dict, init=False)
    """The ordinal of each client's last training that has been heard of."""
    begun: bool = field(default=False, init=False)
    vain: int = field(default=0, init=False)
    fault: str = field(default="", init=False)
    """What went wrong last."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.wire is not None
        self.sending: Sending = self.wire.sending(lambda tasks: [])
        self.written: tuple[LocalTask, ArrayRecord] | None = None
        self.company_at = 0

    # Time ------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the first introduction until a limit is reached.

        Raises:
            Stalled: if devices do not come, or nothing comes of what they do.
        """
        self.wall.start()
        while len(self.nodes) < self.devices:
            self.exchange()
            self.refuse_solitude(f"{len(self.nodes)} of {self.devices} devices are there", self.wall.now)
            self.wall.rest()
        self.wall.start()
        self.begun, self.company_at = True, 0
        self.appear(0, self.nodes)
        while not self.progress.over:
            self.pass_until(self.wall.now)
            self.exchange()
            self.refuse_vanity()
            self.wall.rest()
        self.progress.finish(self.aggregator, self.clock.now)

    def facts(self) -> dict[str, Any]:
        """What it was run with."""
        told = {"flwr": version("flwr"), "devices": self.devices, "answer_limit_s": self.answer_limit / SECOND}
        if self.sending.privacy.noise is not None or self.private:
            told["noise"] = "drawn from the scenario's seed, which the server and every device know"
        return {"deployment": told}

    def exchange(self) -> None:
        """Look who is there, hear what has come, send what is to be sent."""
        self.look()
        for errand, reply in self.post.fetch():
            if not self.progress.over:
                self.hear(errand, reply)
        self.despair()
        for errand in self.post.send():
            self.fail(errand, "its message was not taken")

    def moment(self) -> int:
        """Now, and later than all that was told before."""
        return max(self.wall.now, self.clock.now + 1)

    def refuse_solitude(self, state: str, now: int) -> None:
        """Stalled if nobody has come, or been at work, for too long."""
        if now - self.company_at > COMPANY_LIMIT:
            raise Stalled(f"after {written_duration(COMPANY_LIMIT)} {state}: {self.fault or 'no other came'}")

    def refuse_vanity(self) -> None:
        """Stalled if nothing comes of what devices do, or they do nothing."""
        if self.waiting or self.clock.peek() < inf:
            self.company_at = self.wall.now
        self.refuse_solitude(f"nobody is at work, and {len(self.here)} devices are there", self.wall.now)
        if self.vain > VAIN * len(self.work.held):
            raise Stalled(f"the last {self.vain} local trainings were lost or refused: {self.fault}")

    # Who is there ----------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Nodes come and go; who comes is asked who it is."""
        present = set(self.post.grid.get_node_ids())
        for node in sorted(self.known - present):
            self.known.remove(node)
            self.dismiss(node, "it is offline")
        for node in sorted(present - self.known):
            self.known.add(node)
            self.post.put(Errand(node), MessageType.QUERY, RecordDict())

    def dismiss(self, node: int, why: str) -> None:
        """A node is asked no more."""
        for client in [client for client, own in self.nodes.items() if own == node]:
            self.blame(client, why)
            del self.nodes[client]
            if client in self.here:
                self.vanish(self.moment(), client)

    def blame(self, client: int | None, why: str) -> None:
        """Note what went wrong."""
        self.fault = why if client is None else f"client {client}: {why}"
        log.warning("%s", self.fault)

    def meet(self, node: int, reply: Message) -> None:
        """A node says who it is. If another one was that client before, this one takes its place."""
        if reply.has_error():
            self.blame(None, f"a node cannot introduce itself: {reply.error.reason}")
            return
        try:
            introduction = read_introduction(reply.content)
        except Garbled as fault:
            self.blame(None, f"a node's introduction is garbled: {fault}")
            return
        client = introduction.client
        if introduction.scenario != self.scenario or not 0 <= client < len(self.work.held):
            self.blame(None, f"a node says that it is client {client} of scenario {introduction.scenario}; this is "
                             f"{self.scenario}, of {len(self.work.held)} clients")  # fmt: skip
            return
        if self.nodes.get(client, node) != node:
            self.dismiss(self.nodes[client], "another node has taken its place")
        self.nodes[client] = node
        if self.begun and client not in self.here:
            self.appear(self.moment(), [client])

    # What is sent and heard ------------------------------------------------------------------------------------------

    def send(self, task: LocalTask) -> None:
        """A client's node is to train."""
        client = task.client
        after = self.heard.get(client, NONE_YET) if self.keeps else None
        bound = None if self.sending.privacy.clip is None else self.sending.privacy.bound_at(task.version)
        self.errands[client] = errand = Errand(self.nodes[client], task, self.clock.now)
        self.post.put(errand, MessageType.TRAIN, order_written(Order(task, after, bound), self.model(task)))

    def model(self, task: LocalTask) -> ArrayRecord:
        """What a task starts from; the same record for all who start from the same."""
        if self.written is None or self.written[0].params is not task.params or self.written[0].sent is not task.sent:
            self.written = task, model_written(task.params, task.sent)
        return self.written[1]

    def awaited(self, errand: Errand) -> bool:
        """Whether an answer is still waited for."""
        client = errand.task.client if errand.task else NONE_YET
        return client in self.waiting and self.errands[client] is errand

    def despair(self) -> None:
        """Who has not answered for too long counts as gone. Its node is still at work, and gets no other errand."""
        late = [each for each in self.waiting if self.wall.now - self.errands[each].sent > self.answer_limit]
        for client in late:
            self.blame(client, f"no answer within {written_duration(self.answer_limit)}")
            self.vanish(self.moment(), client)

    def hear(self, errand: Errand, reply: Message) -> None:
        """A reply has come."""
        if errand.task is None:
            if errand.node in self.known:
                self.meet(errand.node, reply)
        elif not self.awaited(errand):
            self.hear_late(errand, errand.task, reply)
        elif reply.has_error():
            self.fail(errand, reply.error.reason or f"error {reply.error.code}")
        else:
            self.take(errand, errand.task, reply.content)

    def hear_late(self, errand: Errand, task: LocalTask, reply: Message) -> None:
        """Nobody waits for this any more, but its node is free again."""
        if reply.has_error():
            self.known.discard(errand.node)  # who may still be there is asked again
            return
        self.happens(self.moment(), lambda: self.tell_late(task.client, task.version))
        if self.nodes.get(task.client) == errand.node and task.client not in self.here:
            self.appear(self.moment(), [task.client])

    def fail(self, errand: Errand, why: str) -> None:
        """Nothing will come of an errand. A client can be asked again after a while, as one that failed."""
        if errand.task is None:
            self.blame(None, f"a node was not reached: {why}")
        elif self.awaited(errand):
            client = errand.task.client
            self.blame(client, why)
            self.happens(self.moment(), lambda: self.tell(client, None))

    def take(self, errand: Errand, task: LocalTask, content: RecordDict) -> None:
        """A client has answered."""
        try:
            result, began, ended = self.read(task, read_answer(content))
        except Forgotten as reason:
            self.dismiss(errand.node, str(reason))
            return
        except Garbled as fault:
            self.blame(task.client, f"its answer is garbled: {fault}")
            result, began, ended = LocalResult(torch.zeros(0), 0.0), 0, 0
        self.heard[task.client] = task.ordinal
        self.world.executor.trained += 1
        now = self.moment()
        times = [min(max(errand.sent, time - self.wall.epoch), now) for time in (began, ended)]
        pending = Deferred(task, now, self.world.executor, result)
        self.happens(now, lambda: self.tell(task.client, Timed(pending, *times)))

    def read(self, task: LocalTask, answer: Answer) -> tuple[LocalResult, int, int]:
        """The numbers of an answer, and when training began and ended. Garbled if no codec can read it."""
        try:
            delta = self.sending.read(task, answer.message)
        except Exception as fault:  # a stranger's message, and any codec's way to stumble over it
            raise Garbled(f"{type(fault).__name__}: {fault}") from None
        for vector in [delta] if answer.extra is None else [delta, answer.extra]:
            if not vector.is_floating_point():
                raise Garbled(f"a change is in numbers, not in {vector.dtype}")
        result = LocalResult(delta, answer.loss, answer.square_loss, extra=answer.extra, within=answer.within)
        return result, answer.began, answer.ended

    # What comes of it ------------------------------------------------------------------------------------------------

    def act(self, started: Iterable[int]) -> None:
        """See `Cell`; what was refused is counted."""
        self.vain += len(self.aggregator.refused)
        super().act(started)

    def stepped(self) -> None:
        """See `Cell`."""
        self.vain = 0
        super().stepped()

    def lose(self, client: int, version: int, cut: Cut) -> None:
        """See `Cell`."""
        self.vain += 1
        super().lose(client, version, cut)
