"""Secure aggregation on the clock: what its four steps cost, and what becomes of a round that clients drop out of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil

from fedsim.clock import FIRST_RANK, Cut, Failure, Moment, Steps
from fedsim.server import ServerSimulation
from fedsim.trace import START
from fedsim.work import Release, Update

Traffic = Callable[[int, int, int], Mapping[str, tuple[int, int]]]
"""Of how many clients have advertised keys, shared them and sent: bytes up and down of one client in each step."""

LEAST = 2
"""With fewer clients a sum hides nobody."""
LAST = 3
"""The step in which masks are taken off."""


@dataclass
class SecureSimulation(ServerSimulation):
    """A server that learns sums alone: every round is one of Bonawitz et al. (CCS 2017).

    Clients advertise keys; when all have, they share them; then they download the model, train and send under masks;
    when all that are left have, they tell the server what takes the masks off. Who fails, fails while it trains or
    uploads. If fewer than `threshold` of those who have begun are left, the round comes to nothing, and all are free.
    """

    threshold: float = 0.6
    traffic: Traffic = lambda advertised, shared, sent: {}
    members: set[int] = field(default_factory=set, init=False)
    """Who has begun the present round."""
    awaited: set[int] = field(default_factory=set, init=False)
    """Who has not finished the present step."""
    present: list[int] = field(default_factory=list, init=False)
    """Who has."""
    door: Moment | None = field(default=None, init=False)
    """Opens when nobody is awaited any more; None: there is no round."""
    step: int = field(default=0, init=False)
    """Which of the four is the present one, from 0."""
    inputs: dict[int, Update] = field(default_factory=dict, init=False)
    """What lies under the masks."""

    def start(self, clients: Iterable[int]) -> None:
        """A round begins."""
        clients = list(clients)
        if clients:
            self.members, self.inputs = set(clients), {}
            self.begin(0, clients)
        super().start(clients)

    def begin(self, step: int, clients: Iterable[int]) -> None:
        """A step, of these clients."""
        self.step, self.awaited, self.present = step, set(clients), []
        self.door = Moment(self.clock, FIRST_RANK + len(self.fleet.devices))

    def job(self, client: int, release: Release) -> Steps:
        """What a started client does: four steps, and local training before the third."""
        began, count, version = self.clock.now, len(self.members), release.version
        self.trace.add(began, START, client, version)
        try:
            sizes = self.traffic(count, count, count)
            yield from self.upload(client, sizes["advertise_keys"][0])
            yield from self.together(client)
            yield from self.download(client, sizes["advertise_keys"][1])
            yield from self.upload(client, sizes["share_keys"][0])
            yield from self.together(client)
            yield from self.download(client, sizes["share_keys"][1])
            pending = yield from self.local(client, release)
            yield from self.upload(client, self.work.up)
            self.inputs[client] = self.arrived(client, version, began, pending)
            yield from self.together(client)
            sizes = self.traffic(count, count, len(self.inputs))
            yield from self.download(client, sizes["masked_input"][1])
            yield from self.upload(client, sizes["unmask"][0])
            yield from self.together(client)
        except Cut as cut:
            self.lose(client, version, cut)

    def together(self, client: int) -> Steps:
        """This client has finished a step, and waits for the others."""
        door = self.door
        assert door is not None
        self.present.append(client)
        self.awaited.discard(client)
        self.look()
        yield door

    def look(self) -> None:
        """If nobody is awaited any more, go on with those who are left, or give the round up."""
        if self.awaited or self.door is None:
            return
        if len(self.present) < max(LEAST, ceil(self.threshold * len(self.members))):
            self.give_up()
        elif self.step == LAST:
            self.deliver()
        else:
            self.door.happen()
            self.begin(self.step + 1, self.present)

    def give_up(self) -> None:
        """Too few are left: whatever they have done comes to nothing, and they can be asked again."""
        waiting, self.door = sorted(self.present), None
        for client in waiting:
            self.jobs.pop(client).cut()
        self.act(self.aggregator.leave(waiting))
        self.act(self.aggregator.join(waiting))

    def deliver(self) -> None:
        """The masks are off: the algorithm hears of all whose messages are in the sum."""
        assert self.door is not None
        self.door.happen()
        self.door = None
        for client in sorted(self.inputs):
            self.arrive(self.inputs[client])

    def lose(self, client: int, version: int, cut: Cut) -> None:
        """A client's work has come to nothing; nobody waits for it any longer."""
        super().lose(client, version, cut)
        if isinstance(cut, Failure):
            self.awaited.discard(client)
            self.look()
