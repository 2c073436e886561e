"""Who may hear whom: the communication graph of a decentralised algorithm, laid over the network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Annotated

import networkx as nx
from pydantic import Field

from fedsim.errors import ScenarioError
from fedsim.network import generated, shapes
from fedsim.network.generated import Count, connected
from fedsim.units import SECOND, Probability

Edges = Iterable[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Overlay(ABC):
    """A connected graph of the clients. What two neighbours say to each other goes through the network as it must."""

    clients: int

    @abstractmethod
    def edges(self) -> Edges:
        """Who is linked to whom; links of a client to itself do not count. ScenarioError if there is no such graph."""

    def graph(self) -> nx.Graph:
        """Undirected, without weights; its nodes are the clients 0, 1, ... in order.

        ScenarioError if there is no such graph, or it is not connected.
        """
        graph = nx.empty_graph(self.clients)
        graph.add_edges_from((one, other) for one, other in self.edges() if one != other)
        if not nx.is_connected(graph):
            raise ScenarioError("graph: the clients are not all connected with each other")
        return graph


@dataclass(frozen=True, kw_only=True)
class Physical(Overlay):
    """The clients' own links in the network: those who are linked there hear each other. Nothing is passed on."""

    links: Callable[[], nx.Graph]

    def edges(self) -> Edges:
        """Those of the network. ScenarioError where its clients have no links with each other."""
        return self.links().edges


@dataclass(frozen=True, kw_only=True)
class Ring(Overlay):
    """Each client and the next by number; the last and the first."""

    def edges(self) -> Edges:
        """As many as clients, if there are three or more."""
        return generated.Ring().of(self.clients).edges


@dataclass(frozen=True, kw_only=True)
class Path(Overlay):
    """Each client and the next by number."""

    def edges(self) -> Edges:
        """One fewer than clients."""
        return nx.path_graph(self.clients).edges


@dataclass(frozen=True, kw_only=True)
class BinaryTree(Overlay):
    """Client i is linked to 2i + 1 and 2i + 2, where there are such: levels are full but for the last."""

    def edges(self) -> Edges:
        """One fewer than clients."""
        return nx.full_rary_tree(2, self.clients).edges


@dataclass(frozen=True, kw_only=True)
class Complete(Overlay):
    """Each client is linked to each."""

    def edges(self) -> Edges:
        """All pairs."""
        return generated.Complete().of(self.clients).edges


@dataclass(frozen=True, kw_only=True)
class Exponential(Overlay):
    """Each client is linked to those 1, 2, 4, ... further on (Ying et al., NeurIPS 2021); each link goes both ways."""

    def edges(self) -> Edges:
        """About 2 log2(clients) for each client."""
        return generated.Exponential().of(self.clients).edges


@dataclass(frozen=True, kw_only=True)
class Grid(Overlay):
    """Rows and columns, numbered row by row; each client is linked to those above, below, left and right of it."""

    rows: Count | None = None
    """None: as square as the number of clients allows; a prime number of them is one row."""
    wrap: bool = False
    """A torus: the last row is linked to the first, the last column to the first."""

    def edges(self) -> Edges:
        """Up to four for each client. ScenarioError if the rows are not all full."""
        rows = self.rows or max(n for n in range(1, math.isqrt(self.clients) + 1) if self.clients % n == 0)
        if self.clients % rows:
            raise ScenarioError(f"graph: a grid of {rows} rows: {self.clients} clients do not fill them")
        grid = generated.Grid(rows=rows, columns=self.clients // rows, wrap=self.wrap)
        return grid.drawn(self.clients).edges


@dataclass(frozen=True, kw_only=True)
class RandomRegular(Overlay):
    """Each client has `degree` neighbours; drawn again until all are connected, up to 100 times."""

    seed: int
    degree: Count = 4

    def edges(self) -> Edges:
        """The first connected draw. ScenarioError if there is no such graph, or none was connected."""
        if self.degree >= self.clients or self.degree * self.clients % 2:
            raise ScenarioError(f"graph: no {self.clients} clients have {self.degree} neighbours each: expected "
                                "more clients than that, and one of the two numbers even")  # fmt: skip
        what = f"a random graph of {self.clients} clients with {self.degree} neighbours each"
        return connected(
            lambda rng: nx.random_regular_graph(self.degree, self.clients, rng), self.seed, what, "graph"
        ).edges


@dataclass(frozen=True, kw_only=True)
class ErdosRenyi(Overlay):
    """Each pair is linked with probability `p`, given that all are connected: drawn again until so, up to 100 times."""

    seed: int
    p: Probability

    def edges(self) -> Edges:
        """The first connected draw. ScenarioError if none was."""
        what = f"an Erdos-Renyi graph of {self.clients} clients with p = {self.p:g}"
        return connected(lambda rng: nx.gnp_random_graph(self.clients, self.p, rng), self.seed, what, "graph").edges


@dataclass(frozen=True, kw_only=True)
class Placed(Overlay):
    """A graph that depends on how far the clients are apart in the network."""

    apart: Callable[[int, int], float]
    """Seconds of latency between two clients, whatever lies between."""

    def pairs(self) -> nx.Graph:
        """All pairs with their `latency` in whole microseconds, which add up exactly, so that equals are equal."""
        graph = nx.Graph(forwards=False)  # what lies between two clients counts already
        graph.add_nodes_from(range(self.clients))
        for one, other in combinations(range(self.clients), 2):
            graph.add_edge(one, other, latency=round(self.apart(one, other) * SECOND))
        return graph


@dataclass(frozen=True, kw_only=True)
class Star(Placed):
    """One client is linked to all others, who have no other link."""

    centre: Annotated[int, Field(ge=0)] | None = None
    """None: the most central, closest to all others by latency; the first among equals."""

    def edges(self) -> Edges:
        """One fewer than clients. ScenarioError if there is no such client."""
        centre = shapes.central(self.pairs()) if self.centre is None else self.centre
        if centre >= self.clients:
            raise ScenarioError(f"graph: star: centre: there is no client {centre} among {self.clients}")
        return [(centre, other) for other in range(self.clients)]


@dataclass(frozen=True, kw_only=True)
class SpanningTree(Placed):
    """The tree of least latency, all links together."""

    def edges(self) -> Edges:
        """One fewer than clients."""
        return nx.minimum_spanning_tree(self.pairs(), weight="latency").edges


@dataclass(frozen=True, kw_only=True)
class Tour(Placed):
    """A ring in which neighbours are close: a short cycle through all clients by latency, found by Christofides' rule.

    At most half longer than the shortest, where no detour is quicker than the direct way. The ring of Marfoq, Xu,
    Neglia and Vidal (Throughput-Optimal Topology Design for Cross-Silo Federated Learning, NeurIPS 2020).
    """

    def edges(self) -> Edges:
        """As many as clients, if there are three or more."""
        if self.clients == 1:
            return []
        return pairwise(nx.approximation.christofides(self.pairs(), weight="latency"))
