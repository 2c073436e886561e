"""Local training whose results have travelled: what leaves a client, and what the server reads of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from fedsim.wire.codec import Codec, Draw, Message
from fedsim.wire.privacy import Privacy
from fedsim.work import LocalResult, LocalTask, Train

Overhear = Callable[[LocalTask, Message, Draw], None]

RESIDUAL = "residual"
"""Under this name a client keeps what its last message has lost."""


@dataclass(frozen=True)
class Letter:
    """A change as it leaves its client."""

    message: Message
    draw: Draw
    arrived: Tensor
    """The vector (P,) that a codec reads in the message."""
    left: LocalResult
    """What was trained, and what stays with the client."""


@dataclass
class Sending:
    """Trains, and lets every change through the wire: clipped and noised, encoded, decoded.

    What a codec keeps at a client, and what its message has lost if it feeds that back, stay in the client's state.
    """

    train: Train
    codec: Codec
    seed: int
    privacy: Privacy
    overhear: Overhear | None = None
    """Told of every message."""

    @property
    def keeps(self) -> bool:
        """Whether a message depends on what the client's last one has left."""
        return self.codec.feedback

    def __call__(self, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """What the server reads of them."""
        return [self.send(task, result) for task, result in zip(tasks, self.train(tasks), strict=True)]

    def send(self, task: LocalTask, result: LocalResult) -> LocalResult:
        """One change through the wire."""
        letter = self.written(task, result)
        if self.overhear:
            self.overhear(task, letter.message, letter.draw)
        return replace(letter.left, delta=self.privacy.read(letter.arrived, letter.draw))

    def written(self, task: LocalTask, result: LocalResult) -> Letter:
        """What the client makes of it."""
        memory = dict(task.kept.wire)
        residual = memory.pop(RESIDUAL, None)
        draw = Draw(self.seed, task.version, task.client, task.ordinal, memory)
        vector, within = self.privacy.protected(result.delta, draw)
        vector = vector if residual is None else vector + residual
        message = self.privacy.blurred(self.codec.encode(vector, draw), draw)
        arrived = self.codec.decode(message, len(vector), draw)
        kept = replace(result.kept, wire=self._remembered(draw.memory, vector, arrived))
        return Letter(message, draw, arrived, replace(result, kept=kept, within=within))

    def read(self, task: LocalTask, message: Message) -> Tensor:
        """What the server makes of its message, where the message is all that it has: the change, (P,)."""
        draw = Draw(self.seed, task.version, task.client, task.ordinal)
        return self.privacy.read(self.codec.decode(message, len(task.params), draw), draw)

    def _remembered(self, memory: dict[str, Tensor], vector: Tensor, arrived: Tensor) -> dict[str, Tensor]:
        return memory | {RESIDUAL: vector - arrived} if self.keeps else {}
