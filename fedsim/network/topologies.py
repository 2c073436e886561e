"""What a network is to a scenario, and the two that are built around the server: star and tree."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import networkx as nx
from pydantic import Field

from fedsim.units import SECOND, Duration, Rate

SERVER, HUB = "server", "hub"
"""The nodes that are not clients; clients are 0, 1, ..."""


class Network(Protocol):
    """What makes a graph for a fleet."""

    def graph(self, downs: Sequence[float], ups: Sequence[float]) -> nx.Graph:
        """The clients 0, 1, ... and `SERVER`, given each client's rates from and to the network (bytes per second)."""
        ...

    def serverless(self, downs: Sequence[float], ups: Sequence[float]) -> nx.Graph:
        """The clients 0, 1, ... among themselves."""
        ...


@dataclass(frozen=True)
class Star:
    """Every client has its own line to one hub; what all of them share is the server's line.

    The defaults are synthetic.
    """

    latency: Duration = 30 * SECOND // 1000
    """One way between a client and the server."""
    server_up: Annotated[Rate, Field(gt=0)] = 1e9 / 8
    server_down: Annotated[Rate, Field(gt=0)] = 1e9 / 8

    def graph(self, downs: Sequence[float], ups: Sequence[float]) -> nx.DiGraph:
        """Edges server -> hub -> client and back. Given each client's rates (bytes per second; may be infinite).

        >>> graph = Star().graph(downs=[2e6], ups=[1e6])
        >>> graph["hub"][0], graph["server"]["hub"]
        ({'capacity': 2000000.0, 'latency': 0.03}, {'capacity': 125000000.0, 'latency': 0.0})
        """
        if len(downs) != len(ups):
            raise ValueError(f"{len(downs)} clients can receive but {len(ups)} can send: expected as many")
        graph = nx.DiGraph()
        line(graph, SERVER, HUB, self.server_up, self.server_down, 0)
        for client, (down, up) in enumerate(zip(downs, ups, strict=True)):
            line(graph, HUB, client, down, up, self.latency)
        return graph

    serverless = graph
    """Among peers nobody uses the server's line."""


@dataclass(frozen=True)
class Tree:
    """Clients have lines to edges, the edges to one hub, the hub to the server. Clients belong to edges in turn.

    The defaults are synthetic.
    """

    edges: Annotated[int, Field(ge=1)] = 4
    latency: Duration = 5 * SECOND // 1000
    """One way between a client and its edge."""
    backhaul_latency: Duration = 30 * SECOND // 1000
    """One way between an edge and the server."""
    backhaul_up: Annotated[Rate, Field(gt=0)] = 100e6 / 8
    """Of each edge, shared by its clients where they talk to the server themselves."""
    backhaul_down: Annotated[Rate, Field(gt=0)] = 100e6 / 8
    server_up: Annotated[Rate, Field(gt=0)] = 1e9 / 8
    server_down: Annotated[Rate, Field(gt=0)] = 1e9 / 8

    def graph(self, downs: Sequence[float], ups: Sequence[float]) -> nx.DiGraph:
        """Edges server -> hub -> "edge 0" -> client and back, given each client's rates (bytes per second).

        >>> graph = Tree(edges=2).graph(downs=[2e6, 3e6, 4e6], ups=[1e6, 1e6, 1e6])
        >>> graph["edge 0"][2], graph["hub"]["edge 1"]
        ({'capacity': 4000000.0, 'latency': 0.005}, {'capacity': 12500000.0, 'latency': 0.03})
        """
        graph = nx.DiGraph()
        line(graph, SERVER, HUB, self.server_up, self.server_down, 0)
        for edge in range(self.edges):
            line(graph, HUB, edge_name(edge), self.backhaul_down, self.backhaul_up, self.backhaul_latency)
        for client, (down, up) in enumerate(zip(downs, ups, strict=True)):
            line(graph, edge_name(client % self.edges), client, down, up, self.latency)
        return graph

    serverless = graph
    """Among peers nobody uses the server's line."""


def edge_name(edge: int) -> str:
    """The node of the edge with this number."""
    return f"edge {edge}"


def line(graph: nx.DiGraph, above: Hashable, below: Hashable, down: float, up: float, latency: int) -> None:
    """Both directions of a link; microseconds, bytes per second."""
    graph.add_edge(above, below, capacity=down, latency=latency / SECOND)
    graph.add_edge(below, above, capacity=up, latency=latency / SECOND)
