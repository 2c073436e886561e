"""Graphs that a scenario can name: who is linked to whom, how fast and how far."""

from __future__ import annotations

from collections.abc import Sequence
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
        latency = self.latency / SECOND
        graph = nx.DiGraph()
        graph.add_edge(SERVER, HUB, capacity=self.server_up, latency=0.0)
        graph.add_edge(HUB, SERVER, capacity=self.server_down, latency=0.0)
        for client, (down, up) in enumerate(zip(downs, ups, strict=True)):
            graph.add_edge(HUB, client, capacity=down, latency=latency)
            graph.add_edge(client, HUB, capacity=up, latency=latency)
        return graph
