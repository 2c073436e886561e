"""Servers in between: each serves clients of its own, and is itself a client of the server above."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from math import nan
from typing import TYPE_CHECKING, ClassVar

from fedsim.cell import Cell
from fedsim.clock import FIRST_RANK, Moment, Steps
from fedsim.server import ServerSimulation
from fedsim.trace import JOIN
from fedsim.work import Deferred, LocalResult, Release

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Edge(Cell):
    """Its local training is a number of server steps with its own clients, from the model that came from above.

    Between two such trainings nobody works for it: whom its algorithm names waits for the next model.
    """

    members: frozenset[int] = frozenset()
    rounds: int = 1
    goal: int = field(default=0, init=False)
    """The version at which it reports."""
    done: Moment | None = field(default=None, init=False)
    """Happens when it has got there; None: it has no model to work on."""
    named: list[int] = field(default_factory=list, init=False)
    """Who is to start with the next model."""

    def begin(self, params: Tensor) -> Moment:
        """Work on a model; the moment at which that is done."""
        self.aggregator.params = params
        self.goal = self.version + self.rounds
        self.done = Moment(self.clock, FIRST_RANK + self.name)
        named, self.named = self.named, []
        self.start(named)
        return self.done

    def start(self, clients: Iterable[int]) -> None:
        """Start them, if there is anything to start them on."""
        if self.done is None:
            self.named += clients
        else:
            super().start(clients)

    def stepped(self) -> None:
        """It may have got there."""
        if self.done is not None and self.version == self.goal:
            self.done.happen()
            self.done = None

    def go(self, clients: list[int]) -> None:
        """Clients have gone away, whatever they were doing or waiting for."""
        self.named = [client for client in self.named if client not in clients]
        super().go(clients)


@dataclass
class HierarchySimulation(ServerSimulation):
    """A server whose clients are edges. Hierarchical FedAvg (Liu et al., ICC 2020) is FedAvg on both levels.

    The edges' numbers, in the trace and for the server's algorithm, follow those of the clients.
    """

    edges: dict[int, Edge] = field(default_factory=dict)
    changing: ClassVar[tuple[str, ...]] = (*ServerSimulation.changing, "edges")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.edge_of = {client: name for name, edge in self.edges.items() for client in edge.members}

    def calendar(self) -> Steps:
        """Edges are there from the start; clients come and go."""
        for edge in self.edges:
            self.trace.add(self.clock.now, JOIN, edge, self.version)
        self.act(self.aggregator.join(self.edges))
        yield from super().calendar()

    def come(self, clients: list[int]) -> None:
        """Clients have become available to their edges."""
        self.here.update(clients)
        for edge, own in self.by_edge(clients):
            edge.come(own)

    def go(self, clients: list[int]) -> None:
        """Clients have left their edges."""
        self.here.difference_update(clients)
        for edge, own in self.by_edge(clients):
            edge.go(own)

    def recover(self, client: int) -> None:
        """An edge that could not be reached can be asked again; it does not go away."""
        self.broken.remove(client)
        self.act(self.aggregator.join([client]))

    def by_edge(self, clients: list[int]) -> list[tuple[Edge, list[int]]]:
        """Each edge that some of them belong to, and which; in the order of the edges."""
        name = self.edge_of.__getitem__
        return [(self.edges[edge], list(own)) for edge, own in groupby(sorted(clients, key=name), key=name)]

    def whereabouts(self, client: int) -> Hashable:
        """The edge's own place."""
        return self.edges[client].place

    def train(self, client: int, release: Release) -> Generator[int | Moment, None, Deferred]:
        """Let the edge work with its clients; what it yields is how far its model has moved. It has no loss."""
        edge = self.edges[client]
        yield edge.begin(release.params)
        result = LocalResult(edge.aggregator.params - release.params, loss=nan)
        task = self.task(client, release)
        return self.world.holders.add(Deferred(task, self.clock.now, self.world.executor, result))
