"""A peer's verbs: train, send, hear. What it does with them is its algorithm's affair (`fedsim.peers`)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from fedsim.clock import FIRST_RANK, Moment, Steps
from fedsim.faults import Asked
from fedsim.simulation import Simulation
from fedsim.trace import ARRIVE, TRAIN, UNASKED, UPLOAD, VERSION
from fedsim.work import Deferred, Kept, Letter, LocalTask, Parts

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.defences import Guard
    from fedsim.progress import Progress
    from fedsim.workload import Workload

Verb = Generator["int | Moment", None, Any]

Said = Callable[["Node", "Tensor"], "Tensor"]

NUMBER = 8
"""Bytes of a number in a message."""


def truth(node: Node, model: Tensor) -> Tensor:
    """What a peer says of its model."""
    return model


@dataclass(eq=False)
class Node:
    """One of `peers` peers, from its first round to its last."""

    name: int
    peers: int
    world: Simulation
    work: Workload
    progress: Progress
    params: Tensor
    """Its model at the end of its last round, flat (P,): what is measured. Never written to, only replaced."""
    limit: int | None = None
    """How many rounds there are, if that is known."""
    keeps: bool = False
    """Whether a training depends on what the last one has left."""
    defence: Guard | None = None
    """What stands in for the weighted mean of what it hears; None: nothing does."""
    said: Said = truth
    """What it says of a model (P,) of its own, if it lies: to everybody, itself included."""
    finished: Callable[[int], None] = lambda rounds: None
    """Told how many rounds are over whenever one is."""
    memory: dict[str, Any] = field(default_factory=dict)
    """All that its algorithm remembers from one verb to the next, beside the model."""
    neighbours: dict[int, Node] = field(default_factory=dict, repr=False)
    """Everybody, by name."""
    round: int = 0
    trainings: int = 0
    letters: int = 0
    """How many it has sent."""
    left: Kept | None = None
    """What its last training has left with it."""
    post: dict[tuple[int, Hashable], Parts] = field(default_factory=dict, repr=False)
    """What has come and was not heard yet, by sender and subject, in order of arrival."""
    listening: list[Listener] = field(default_factory=list, repr=False)
    changing: ClassVar[tuple[str, ...]] = ("params", "memory", "left", "post")

    def rounds(self) -> Iterator[int]:
        """0, 1, ...: a round is over when the next is asked for."""
        while self.limit is None or self.round < self.limit:
            yield self.round
            self.round += 1
            self.world.trace.add(self.world.clock.now, VERSION, self.name, self.round)
            self.finished(self.round)

    def train(self, sent: Tensor | None = None) -> Generator[int | Moment, None, Deferred]:
        """Local steps on the present model; `sent` is what a correction of the gradients needs (P,)."""
        world, steps = self.world, self.work.steps_at(self.name, self.round)
        task = LocalTask(self.name, self.params, self.trainings, steps, sent, version=self.round)
        seen = self.work.seen_at(self.name, self.round)
        duration = world.training_time(self.name, self.round, self.trainings, seen, self.work.flops)
        world.trace.add(world.clock.now, TRAIN, self.name, self.round)
        self.trainings += 1
        pending = world.promise(task, world.clock.now + duration, self.left)
        yield duration
        if self.keeps:
            self.left = pending.keep()
        pending.arrived = True
        self.progress.heard(world.clock.now, pending)
        self.progress.arrived(staleness=0)
        return pending

    def send(self, peer: int, subject: Hashable, *parts: Any, nbytes: int | None = None) -> None:
        """Let a message go, and wait for nothing. It has the size of its vectors and numbers, or `nbytes`."""
        if nbytes is None:
            nbytes = sum(NUMBER if isinstance(part, int | float) else self.work.up for part in parts)
        rank = FIRST_RANK + self.peers * (self.name + 1) + peer
        letter = self.world.holders.add(Letter(parts))
        self.world.clock.start(self._carry(peer, subject, letter, nbytes, rank), rank)

    def _carry(self, peer: int, subject: Hashable, letter: Letter, nbytes: int, rank: int) -> Steps:
        """On its way a letter may be held up, or come again, which the peer knows and does not read."""
        world, round = self.world, self.round
        asked = Asked(self.name, self.letters, world.clock.now, world.clock.now)
        self.letters += 1
        world.trace.add(world.clock.now, UPLOAD, self.name, round, nbytes, peer=peer)
        if late := world.faults.delay(asked):
            yield late
        yield from world.carrier.carry(self.name, peer, nbytes, rank, self.progress.uploaded)
        world.trace.add(world.clock.now, ARRIVE, self.name, round, nbytes, peer=peer)
        self.neighbours[peer].accept(self.name, subject, letter.parts)
        del letter  # copies are of no use to anybody
        for _ in range(world.faults.copies(replace(asked, now=world.clock.now))):
            yield from world.carrier.carry(self.name, peer, nbytes, rank, self.progress.uploaded)
            world.trace.add(world.clock.now, UNASKED, self.name, round, nbytes, peer=peer)

    def accept(self, peer: int, subject: Hashable, parts: Parts) -> None:
        """A message has come."""
        self.post[peer, subject] = parts
        for listener in [listener for listener in self.listening if listener.content(self.post)]:
            self.listening.remove(listener)
            listener.moment.happen()

    def hear(self, peers: Iterable[int], subject: Hashable) -> Generator[Moment, None, dict[int, Parts]]:
        """What each of these peers says on a subject; wait for all of them."""
        wanted = [(peer, subject) for peer in sorted(peers)]
        yield from self._listen(lambda post: all(letter in post for letter in wanted))
        return {letter[0]: self.post.pop(letter) for letter in wanted}

    def hear_anybody(self, subject: Hashable) -> Generator[Moment, None, tuple[int, Parts]]:
        """Who says something on a subject, and what; wait for the first. Among those who have, the earliest."""
        yield from self._listen(lambda post: any(about == subject for _, about in post))
        letter = next(letter for letter in self.post if letter[1] == subject)
        return letter[0], self.post.pop(letter)

    def _listen(self, content: Callable[[dict[tuple[int, Hashable], Parts]], bool]) -> Generator[Moment, None, None]:
        if not content(self.post):
            moment = Moment(self.world.clock, FIRST_RANK + self.name)
            self.listening.append(Listener(content, moment))
            yield moment

    def beside(self, steps: Steps) -> None:
        """Do something else at the same time."""
        self.world.clock.start(steps, FIRST_RANK + self.name)


@dataclass(eq=False)
class Listener:
    """Somebody who waits for messages."""

    content: Callable[[dict[tuple[int, Hashable], Parts]], bool]
    """Whether what has come is enough."""
    moment: Moment
