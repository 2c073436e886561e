"""All the faults of a scenario together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from math import prod
from typing import TYPE_CHECKING

from fedsim.errors import ScenarioError
from fedsim.faults.fault import Asked, Draw, Fault, Phase
from fedsim.fleet import Fate
from fedsim.network import Conditions
from fedsim.rng import chance

if TYPE_CHECKING:
    import networkx as nx

    from fedsim.aggregators.aggregator import Aggregator
    from fedsim.cell import Cell
    from fedsim.scenario import Arm
    from fedsim.work import Update

Spoil = Callable[["Sequence[Update]"], "Sequence[Update]"]


@dataclass(frozen=True)
class Faults:
    """What goes wrong in a run; each fault's draws are named by its place in the list."""

    members: tuple[Fault, ...] = ()
    seed: int = 0

    @classmethod
    def of(cls, arm: Arm) -> Faults:
        """Those of a scenario. ScenarioError if one names a client that does not exist."""
        members: tuple[Fault, ...] = arm.build({}, "faults") or ()
        clients = arm.keys.fleet.clients
        for place, fault in enumerate(members):
            if beyond := [client for client in fault.named() if client >= clients]:
                raise ScenarioError(f"{arm.place(('faults', place))}: faults.{place}: there is no client {beyond[0]}; "
                                    f"they are numbered 0 to {clients - 1}")  # fmt: skip
        return cls(members, arm.keys.seed)

    def each(self) -> Iterator[tuple[Fault, Draw]]:
        """With its draws."""
        for place, fault in enumerate(self.members):
            yield fault, partial(chance, self.seed, "fault", place)

    def refuse(self, arm: Arm, who: str, on_the_way: bool = False) -> None:
        """ScenarioError if they are about more than links and clocks (and messages on the way) that `who` bears."""
        for place, fault in enumerate(self.members):
            if not (fault.anywhere or (on_the_way and fault.on_the_way)):
                name = arm.keys.faults[place].name
                borne = "skew, degrade, partition, delay and duplicate" if on_the_way else "skew, degrade and partition"
                raise ScenarioError(f"{arm.place(('faults', place))}: faults.{place}: {name} befalls clients of one "
                                    f"server; {who} bear {borne} alone")  # fmt: skip

    @property
    def silencing(self) -> bool:
        """Whether somebody who is asked may never answer."""
        return any(fault.silencing for fault in self.members)

    def pace(self, client: int) -> float:
        """A client's local training takes so many times as long."""
        return prod(fault.pace(client, draw) for fault, draw in self.each())

    def fate(self, client: int, number: int, phase: Phase) -> Fate | None:
        """How a client fails in this phase of its n-th work: as the first fault has it that concerns it."""
        fates = (fault.fate(client, number, phase, draw) for fault, draw in self.each())
        return next((fate for fate in fates if fate is not None), None)

    def delay(self, asked: Asked) -> int:
        """Microseconds for which an answer is held up."""
        return sum(fault.delay(asked, draw) for fault, draw in self.each())

    def copies(self, asked: Asked) -> int:
        """How often an answer comes again."""
        return sum(fault.copies(asked, draw) for fault, draw in self.each())

    def corrupted(self, update: Update) -> Update:
        """What arrives of an update."""
        return reduce(lambda told, pair: pair[0].corrupted(told, pair[1]), self.each(), update)

    def corrupt(self, aggregator: Aggregator) -> None:
        """Let a server get its updates as they arrive."""
        if self.members:
            aggregator.spoil = Corrupting(self, aggregator.spoil)

    def strikes(self, cell: Cell) -> Iterator[tuple[int, Callable[[], None]]]:
        """What happens to a server and its clients at which times."""
        for fault, draw in self.each():
            for moment in fault.moments(draw):
                yield moment, partial(fault.strike, cell)

    def weathered(self, graph: nx.Graph, usual: Conditions, clients: int) -> nx.Graph:
        """A network, its links subject to the usual, and to what weakens or splits them besides; changed in place.

        ScenarioError where that cannot be.
        """
        replace(usual, outages=()).apply(graph, clients, self.seed)
        for fault, draw in self.each():
            fault.weaken(graph, draw)
        splits = [outage for fault, draw in self.each() for outage in fault.outages(graph, clients, draw)]
        replace(usual, trace=None, outages=(*usual.outages, *splits)).apply(graph, clients, self.seed)
        return graph


NONE = Faults()
"""Nothing goes wrong."""


@dataclass(frozen=True)
class Corrupting:
    """What becomes of the updates of a step on their way to it, after what liars have made of theirs."""

    faults: Faults
    lying: Spoil | None = None

    def __call__(self, updates: Sequence[Update]) -> list[Update]:
        """As they arrive."""
        told = self.lying(updates) if self.lying else updates
        return [self.faults.corrupted(update) for update in told]
