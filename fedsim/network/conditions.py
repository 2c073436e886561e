"""What becomes of a network's links in time: recorded capacities of the clients' lines, and outages."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import networkx as nx
from pydantic import StrictInt, StrictStr

from fedsim.errors import ScenarioError, nearest
from fedsim.network.capacity import Interrupted
from fedsim.network.outages import Policy
from fedsim.units import SECOND, Duration

Node = StrictInt | StrictStr
"""A client's number, or the name of another node."""


@dataclass(frozen=True, kw_only=True)
class Outage:
    """Links that are down from `start` to `end`: those `between` two neighbours, or where the network is `split`."""

    start: Duration
    end: Duration
    between: tuple[Node, Node] | None = None
    """Both directions are down. A client that has a router to itself, as among peers, may stand for it."""
    split: tuple[tuple[Node, ...], ...] | None = None
    """A partition: groups of nodes between which all links are down. A node that is in none goes with the group that is
    the fewest hops away, the first among equals; so in a star the hub, and who is not named, go with the first."""

    def __post_init__(self) -> None:
        if (self.between is None) == (self.split is None):
            raise ValueError("an outage needs either between or split")
        if self.end <= self.start:
            raise ValueError("an outage must end after its start")
        if self.split is not None and (len(self.split) < 2 or not all(self.split)):
            raise ValueError("split needs two groups or more, with a node or more in each")
        if len(set(self.named)) < len(self.named):
            raise ValueError("an outage names a node twice")

    @property
    def named(self) -> list[Node]:
        """All nodes that it names."""
        return [node for group in (self.split or [self.between or ()]) for node in group]

    def links(self, graph: nx.Graph) -> Iterator[tuple[Hashable, Hashable]]:
        """The edges of the graph that are down. A wire, which both directions share, is one edge."""
        belongs = _groups(graph, self.split) if self.split else {}
        ends = _ends(graph, *self.between) if self.between else None
        for source, target, wire in graph.edges(data="wire"):
            one, other = wire or (source, target)
            if {one, other} == ends or belongs.get(one) != belongs.get(other):
                yield source, target


def _ends(graph: nx.Graph, one: Node, other: Node) -> set[Hashable]:
    """Two nodes, or what lies between each and the rest if they are not linked themselves."""
    if graph.has_edge(one, other) or graph.has_edge(other, one):
        return {one, other}
    around = [set(nx.all_neighbors(graph, node)) for node in (one, other)]
    return {next(iter(near)) if len(near) == 1 else node for node, near in zip((one, other), around, strict=True)}


def _groups(graph: nx.Graph, split: Collection[Collection[Node]]) -> dict[Hashable, int]:
    """The group of every node: its own, or the nearest."""
    belongs: dict[Hashable, int] = {node: group for group, nodes in enumerate(split) for node in nodes}
    links = graph.to_undirected(as_view=True)
    nodes = list(belongs)
    for node in nodes:  # which grows meanwhile, hop by hop, and at each hop in the order of the groups
        for neighbour in links[node]:
            if neighbour not in belongs:
                belongs[neighbour] = belongs[node]
                nodes.append(neighbour)
    return belongs


def broken_links(graph: nx.Graph, outage: Outage, place: str) -> list[tuple[Hashable, Hashable]]:
    """The edges that are down. ScenarioError, which names the place in the scenario, if there are no such."""
    for node in outage.named:
        if node not in graph:
            raise ScenarioError(f"{place}: there is no node {node!r} in the network; "
                                f"{nearest(str(node), map(str, graph))}")  # fmt: skip
    links = list(outage.links(graph))
    if not links:
        named = " and ".join(map(repr, outage.split or outage.between or ()))
        raise ScenarioError(f"{place}: there is no link between {named}")
    return links


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What the links of a network are subject to."""

    trace: Any = None
    """Recorded capacities of the clients' own lines, in place of what their devices say."""
    outages: tuple[Outage, ...] = ()
    on_outage: Policy = "stall"
    """What transfers do when a link of theirs is down: wait for its repair (`stall`); take another way with the bytes
    that have not passed yet, its latency included, or wait where there is none (`reroute`); or come to nothing
    (`fail`), and the client with them, which can be asked again after `drop.recovery`."""

    def apply(self, graph: nx.Graph, clients: int, seed: int) -> None:
        """Change the capacities of a graph's links. ScenarioError where they are not as described."""
        if self.trace is not None:
            self._trace(graph, clients, seed)
        down: dict[tuple[Hashable, Hashable], list[tuple[float, float]]] = {}
        for outage in self.outages:
            period = outage.start / SECOND, outage.end / SECOND
            for link in broken_links(graph, outage, "links.outages"):
                down.setdefault(link, []).append(period)
        for link, outages in down.items():
            edge = graph.edges[link]
            edge["capacity"] = Interrupted(edge["capacity"], outages)
        if down:
            graph.graph["on_outage"] = self.on_outage

    def _trace(self, graph: nx.Graph, clients: int, seed: int) -> None:
        for client, (down, up) in enumerate(self.trace.draw(clients, seed)):
            around = set(nx.all_neighbors(graph, client))
            if len(around) != 1 or around <= set(range(clients)):
                raise ScenarioError(f"links.trace: client {client} has no line of its own in this network")
            [mast] = around
            for edge, capacity in (((mast, client), down), ((client, mast), up)):
                if capacity is not None:
                    graph.edges[edge]["capacity"] = capacity
