"""Errands to Flower's nodes and their replies, without ever waiting for one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedsim.work import LocalTask


@dataclass(frozen=True, eq=False)
class Errand:
    """What a node was asked for."""

    node: int
    """Flower's number for it: 64 bits, and nobody else's business."""
    task: LocalTask | None = None
    """None: to introduce itself."""
    sent: int = 0
    """When, in microseconds."""


@dataclass
class Post:
    """Over one grid."""

    grid: Grid
    outbox: list[tuple[Errand, Message]] = field(default_factory=list, init=False)
    under_way: dict[str, Errand] = field(default_factory=dict, init=False)
    """By the message's id. A reply from Flower itself (the node is gone) says of whom it is by that alone."""

    def put(self, errand: Errand, kind: str, content: RecordDict) -> None:
        """To be sent with all others."""
        self.outbox.append((errand, Message(content, errand.node, kind)))

    def send(self) -> list[Errand]:
        """Send what there is to be sent; those that were not taken."""
        waiting, self.outbox = self.outbox, []
        if not waiting:
            return []
        taken = set(self.grid.push_messages([message for _, message in waiting]))
        sent = {message.metadata.message_id: errand for errand, message in waiting}
        self.under_way |= {name: errand for name, errand in sent.items() if name in taken}
        return [errand for name, errand in sent.items() if name not in taken]

    def fetch(self) -> Iterator[tuple[Errand, Message]]:
        """The replies that have come, each once."""
        for reply in list(self.grid.pull_messages(list(self.under_way))) if self.under_way else []:
            yield self.under_way.pop(reply.metadata.reply_to_message_id), reply
