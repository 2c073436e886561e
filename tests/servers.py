"""What tests of server algorithms share: a roster with a census, updates, and a driver that plays the fleet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedsim.aggregators import Aggregator
from fedsim.rng import stream
from fedsim.roster import Census, Roster
from fedsim.selection import Uniform
from fedsim.wire import Draw
from fedsim.work import LocalResult, Update

SIZE = 5
CLIENTS = 10


def start() -> Tensor:
    """A model that is not zero."""
    return torch.arange(SIZE, dtype=torch.float32) / 7


def census(
    clients: int = CLIENTS,
    examples: Sequence[int] | None = None,
    rates: Sequence[float] | None = None,
    periods: Sequence[int] | None = None,
) -> Census:
    """Everybody holds 10 examples, is always there and takes 1,000 us, if nothing else is said."""
    examples, rates = examples or [10] * clients, rates or [1.0] * clients
    periods = periods or [1000] * clients
    return Census(dict(enumerate(examples)), periods.__getitem__, rates.__getitem__)


def roster(book: Census | None = None) -> Roster:
    """Uniform selection among CLIENTS clients."""
    return Roster(Uniform(seed=1), census=book or census())


class Unreadable:
    """Numbers of an update that must not count."""

    def result(self) -> LocalResult:
        """Fails."""
        raise AssertionError("an update that does not count was read")


def update(
    client: int,
    version: int,
    delta: Tensor | None = None,
    examples: int = 10,
    steps: int = 1,
    extra: Tensor | None = None,
) -> Update:
    """An update with these numbers, or unreadable."""
    numbers = Unreadable()
    if delta is not None:
        numbers = LocalResult(delta, loss=1.0, square_loss=1.0, extra=delta if extra is None else extra)
    return Update(client, version, examples, steps, duration=1, numbers=numbers)


def delta(*name: object) -> Tensor:
    """Random numbers with this name."""
    return torch.from_numpy(stream(3, *name).standard_normal(SIZE)).float()


class Driver:
    """Plays a fleet and its timer: whom to hear next is the caller's choice."""

    def __init__(self, aggregator: Aggregator, clients: int = 0):
        """With so many clients there from the start."""
        self.aggregator, self.busy, self.heard = aggregator, {}, 0
        if clients:
            self.act(aggregator.join(range(clients)))

    def act(self, started: list[int]) -> None:
        """Whom the aggregator has named is at work from now on."""
        for client in started:
            assert client not in self.busy, "a busy client was started"
            self.busy[client] = self.aggregator.version

    def hear(self, client: int, numbers: Tensor | None = None, **facts) -> None:
        """This client answers. If nobody else is at work, time passes until the timer runs out."""
        version = self.busy.pop(client)
        self.heard += 1
        numbers = delta(client, self.heard) if numbers is None else numbers
        if (codec := self.aggregator.codec) is not None and numbers.shape == self.aggregator.params.shape:
            draw = Draw(0, version, client)
            numbers = codec.decode(codec.encode(numbers, draw), len(numbers), draw)
        self.act(self.aggregator.receive(update(client, version, numbers, **facts)))
        if not self.busy and self.aggregator.deadline is not None:
            self.act(self.aggregator.expire())

    def turn(self, numbers: dict[int, Tensor] | None = None, **facts) -> None:
        """Everybody at work answers once, in the order of numbers."""
        for client in sorted(self.busy):
            self.hear(client, None if numbers is None else numbers[client], **facts)
