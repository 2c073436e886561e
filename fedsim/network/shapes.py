"""Graphs of routers, put to two uses: with a server and lines for any number of clients, or among peers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal

import networkx as nx
import numpy as np
from pydantic import Field

from fedsim.errors import ScenarioError, nearest
from fedsim.network.routes import forwards
from fedsim.network.topologies import SERVER, line
from fedsim.rng import chance
from fedsim.units import SECOND, Duration, Rate

LARGEST = 4096
"""Routers among which the most central is looked for: each is compared with each, over each."""


@dataclass(frozen=True, kw_only=True)
class Shape(ABC):
    """Routers and the links between them, before anybody stands at them.

    With a server (`graph`) clients have lines of their own to the routers, and may be more than those. Among peers
    client i has router i to itself, or is that router (`serverless`, `among`). `seed` is given by the run.
    """

    server: int | str | None = None
    """Where the server stands: a router's number or label. None: the most central, closest to all others by latency."""
    attach: Literal["in_turn", "drawn"] = "in_turn"
    """Which router a client's line leads to."""
    access_latency: Duration = 0
    """One way on a client's line, whose rates are those of its device."""
    capacity: Annotated[Rate, Field(gt=0)] = 1e9 / 8
    """Of each link of which nothing else is known; the default is synthetic."""
    duplex: Literal["full", "half"] = "full"
    """`full`: a link carries its capacity each way; `half`: both directions share it."""
    seed: int = 0

    @abstractmethod
    def routers(self, clients: int) -> nx.Graph:
        """Nodes 0, 1, ..., perhaps with a `label`, all connected; links have `capacity` (bytes/s) and `latency` (s).

        `clients` is the number of nodes where the scenario leaves it open. A graph whose nodes do not pass on what
        others send, as hosts of the Internet, says `forwards=False`. ScenarioError if there is no such graph.
        """

    def peers(self, clients: int) -> nx.Graph:
        """The routers, as many as clients if that can be."""
        return self.routers(clients)

    def graph(self, downs: Sequence[float], ups: Sequence[float]) -> nx.DiGraph:
        """The clients 0, 1, ... with lines of these rates (bytes/s) to "router 0", ..., one of which is `SERVER`.

        ScenarioError if the server has no place to stand.
        """
        routers = self.routers(len(downs))
        place = self._place(routers)
        names = {node: SERVER if node == place else f"router {node}" for node in routers}
        if not forwards(routers):
            routers = spokes(routers, place)
        links = nx.relabel_nodes(routers, names)
        graph = nx.DiGraph(links) if self.duplex == "full" else wires(links)
        for client, (down, up) in enumerate(zip(downs, ups, strict=True)):
            line(graph, names[self._stand(client, len(names))], client, down, up, self.access_latency)
        return graph

    def among(self, clients: int) -> nx.Graph:
        """Client i is node i: a DiGraph with both directions of each link, or a Graph whose links are `half` duplex.

        ScenarioError if there are not as many nodes as clients.
        """
        peers = self.peers(clients)
        if len(peers) != clients:
            raise ScenarioError(f"network: {len(peers)} nodes for {clients} peers: expected as many")
        return nx.DiGraph(peers) if self.duplex == "full" else peers

    def serverless(self, downs: Sequence[float], ups: Sequence[float]) -> nx.DiGraph:
        """Peers 0, 1, ... with lines of these rates (bytes/s) to "router 0", "router 1", ..., each its own.

        ScenarioError if there are not as many routers as peers.
        """
        links = nx.relabel_nodes(self.among(len(downs)), {node: f"router {node}" for node in range(len(downs))})
        graph = links if isinstance(links, nx.DiGraph) else wires(links)
        for client, (down, up) in enumerate(zip(downs, ups, strict=True)):
            line(graph, f"router {client}", client, down, up, self.access_latency)
        return graph

    def _stand(self, client: int, routers: int) -> int:
        return client % routers if self.attach == "in_turn" else int(chance(self.seed, "attach", client) * routers)

    def _place(self, routers: nx.Graph) -> int:
        """The server's."""
        if self.server is None:
            return central(routers)
        called = {node: {node, str(node), data.get("label")} for node, data in routers.nodes(data=True)}
        found = [node for node, names in called.items() if self.server in names]
        if len(found) > 1:
            raise ScenarioError(f"network: server: {self.server!r} may be any of the routers {found}: give its number")
        if not found:
            known = {str(data.get("label", node)) for node, data in routers.nodes(data=True)}
            raise ScenarioError(
                f"network: server: there is no router {self.server!r}; {nearest(str(self.server), known)}"
            )
        return found[0]


def spokes(routers: nx.Graph, place: int) -> nx.Graph:
    """The links that end at one node, and no others."""
    graph = nx.Graph()
    graph.add_node(place)
    graph.add_edges_from(routers.edges(place, data=True))
    return graph


def central(routers: nx.Graph) -> int:
    """The node of largest closeness: least latency to all others together. The first among equals.

    Latencies count in whole microseconds, which add up exactly, so that equals are equal.

    >>> path = nx.path_graph(5)
    >>> nx.set_edge_attributes(path, 0.01, "latency")
    >>> central(path)
    2
    """
    if len(routers) > LARGEST:
        raise ScenarioError(f"network: say where the server stands: {len(routers)} routers are more than {LARGEST}, "
                            "too many to look for the most central")  # fmt: skip
    nodes = list(routers)
    apart = np.rint(nx.to_numpy_array(routers, nodes, weight="latency", nonedge=inf) * SECOND)
    np.fill_diagonal(apart, 0)
    for middle in range(len(nodes)) if forwards(routers) else ():
        np.minimum(apart, apart[:, [middle]] + apart[middle], out=apart)
    return nodes[int(apart.sum(axis=1).argmin())]


def wires(links: nx.Graph) -> nx.DiGraph:
    """Links that both directions share, in a DiGraph: whoever passes goes through one and the same edge.

    >>> graph = wires(nx.Graph([("a", "b", {"capacity": 8.0, "latency": 0.5})]))
    >>> [nx.shortest_path(graph, *ends) for ends in ("ab", "ba")]
    [['a', 'wire a-b in', 'wire a-b out', 'b'], ['b', 'wire a-b in', 'wire a-b out', 'a']]
    """
    graph = nx.DiGraph()
    graph.add_nodes_from(links.nodes(data=True))
    for one, other, link in links.edges(data=True):
        start, end = f"wire {one}-{other} in", f"wire {one}-{other} out"
        graph.add_edge(start, end, wire=(one, other), **link)
        for node in (one, other):
            graph.add_edge(node, start, capacity=inf, latency=0.0)
            graph.add_edge(end, node, capacity=inf, latency=0.0)
    return graph
