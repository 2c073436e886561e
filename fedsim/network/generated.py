"""Graphs that are made to measure: regular ones and random ones, with links that are all alike."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import networkx as nx
import numpy as np
from pydantic import Field

from fedsim.errors import ScenarioError
from fedsim.network.shapes import Shape
from fedsim.rng import stream
from fedsim.units import SECOND, Duration, Probability

DRAWS = 100
"""How often a random graph is drawn until it is connected."""

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Generated(Shape):
    """Links that are all alike, with synthetic defaults."""

    source: ClassVar[str] = "synthetic"

    latency: Duration = 10 * SECOND // 1000
    """One way on each link."""

    @abstractmethod
    def drawn(self, clients: int) -> nx.Graph:
        """Nodes 0, 1, ... and who is linked to whom."""

    def routers(self, clients: int) -> nx.Graph:
        """The graph, with its links' capacity and latency."""
        graph = self.drawn(clients)
        graph.remove_edges_from(list(nx.selfloop_edges(graph)))
        for *_, link in graph.edges(data=True):
            link.update(capacity=self.capacity, latency=self.latency / SECOND)
        return graph


@dataclass(frozen=True, kw_only=True)
class Sized(Generated):
    """A graph for any number of nodes."""

    nodes: Count | None = None
    """None: as many as clients."""

    @abstractmethod
    def of(self, nodes: int) -> nx.Graph:
        """The graph with so many nodes."""

    def drawn(self, clients: int) -> nx.Graph:
        """As many as the scenario says, or else as there are clients."""
        return self.of(self.nodes or clients)


@dataclass(frozen=True, kw_only=True)
class Ring(Sized):
    """Each node is linked to the next, the last to the first."""

    def of(self, nodes: int) -> nx.Graph:
        """A cycle.

        >>> sorted(Ring().of(4).edges)
        [(0, 1), (0, 3), (1, 2), (2, 3)]
        """
        return nx.cycle_graph(nodes)


@dataclass(frozen=True, kw_only=True)
class Grid(Generated):
    """Each node is linked to those above, below, left and right of it. Nodes are numbered row by row."""

    rows: Count
    columns: Count
    wrap: bool = False
    """A torus: the last row is linked to the first, the last column to the first."""

    def drawn(self, clients: int) -> nx.Graph:
        """`rows` times `columns` nodes, whoever is to stand there.

        >>> sorted(Grid(rows=2, columns=2).drawn(4).edges)
        [(0, 1), (0, 2), (1, 3), (2, 3)]
        """
        return nx.convert_node_labels_to_integers(nx.grid_2d_graph(self.rows, self.columns, periodic=self.wrap))


@dataclass(frozen=True, kw_only=True)
class Complete(Sized):
    """Each node is linked to each."""

    def of(self, nodes: int) -> nx.Graph:
        """All pairs."""
        return nx.complete_graph(nodes)


@dataclass(frozen=True, kw_only=True)
class Exponential(Sized):
    """Each node is linked to those 1, 2, 4, ... further on.

    The links of the static exponential graph (Ying et al., 2021); here each goes both ways.
    """

    def of(self, nodes: int) -> nx.Graph:
        """Offsets are the powers of two below the number of nodes.

        >>> sorted(Exponential().of(6)[0])
        [1, 2, 4, 5]
        """
        return nx.circulant_graph(nodes, [2**power for power in range((nodes - 1).bit_length())])


@dataclass(frozen=True, kw_only=True)
class ErdosRenyi(Sized):
    """Each pair is linked with probability `p` (Gilbert, 1959; Erdos and Renyi, 1959), given that all are connected.

    What is not connected is drawn again, up to 100 times; then it is an error.
    """

    p: Probability

    def of(self, nodes: int) -> nx.Graph:
        """The first connected draw."""
        what = f"an Erdos-Renyi graph of {nodes} nodes with p = {self.p:g}"
        return connected(lambda rng: nx.gnp_random_graph(nodes, self.p, seed=rng), self.seed, what)


@dataclass(frozen=True, kw_only=True)
class WattsStrogatz(Sized):
    """A ring whose nodes are linked to their `k` nearest; each link's far end moves with probability `p`.

    Watts and Strogatz, 1998 (Nature 393). What is not connected is drawn again, up to 100 times; then it is an error.
    """

    k: Annotated[int, Field(ge=2, multiple_of=2)] = 4
    p: Probability = 0.1

    def of(self, nodes: int) -> nx.Graph:
        """The first connected draw. ScenarioError if there are not more than `k` nodes."""
        if nodes <= self.k:
            raise ScenarioError(f"network: a Watts-Strogatz graph with k = {self.k} needs more nodes than {nodes}")
        what = f"a Watts-Strogatz graph of {nodes} nodes with k = {self.k} and p = {self.p:g}"
        return connected(lambda rng: nx.watts_strogatz_graph(nodes, self.k, self.p, seed=rng), self.seed, what)


@dataclass(frozen=True, kw_only=True)
class BarabasiAlbert(Sized):
    """Nodes come one by one, each with `m` links to others in proportion to the links they have.

    Barabasi and Albert, 1999 (Science 286). It starts from a star of m + 1 nodes, so it is always connected.
    """

    m: Count = 2

    def of(self, nodes: int) -> nx.Graph:
        """One draw. ScenarioError if there are not more than `m` nodes."""
        if nodes <= self.m:
            raise ScenarioError(f"network: a Barabasi-Albert graph with m = {self.m} needs more nodes than {nodes}")
        return nx.barabasi_albert_graph(nodes, self.m, seed=stream(self.seed, "network", 0))


def connected(
    draw: Callable[[np.random.Generator], nx.Graph], seed: int, what: str, family: str = "network"
) -> nx.Graph:
    """The first of `DRAWS` graphs that is connected, drawn in the name of its family. ScenarioError if none is."""
    for attempt in range(DRAWS):
        graph = draw(stream(seed, family, attempt))
        if nx.is_connected(graph):
            return graph
    raise ScenarioError(f"{family}: {what} was not connected in {DRAWS} draws: more links are needed")
