"""Which way a transfer goes: least latency, and fewest hops among equals."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from heapq import heappop, heappush
from itertools import count

import networkx as nx

Neighbours = Mapping[Hashable, Mapping[Hashable, Mapping[str, float]]]


def forwards(graph: nx.Graph) -> bool:
    """Whether nodes pass on what others send; hosts of the Internet do not."""
    return graph.graph.get("forwards", True)


class Routes:
    """The best paths of a graph whose edges carry `latency` (seconds), found when they are asked for.

    A node with a single way out, or in, has no choice and needs no search: in a star nobody searches, and nothing is
    kept for each of its 100,000 clients. Between other nodes there is one search for each target, which goes only as
    far as it was asked. The answer depends on the graph alone, not on what was asked before. Nodes of a graph that says
    `forwards=False` do not pass on what others send: between them, or the only ways out of two nodes, is one link.

    >>> graph = nx.Graph([("a", "b", {"latency": 1.0}), ("b", "c", {"latency": 1.0}), ("a", "c", {"latency": 3.0})])
    >>> Routes(graph).path("a", "c")
    ('a', 'b', 'c')
    """

    def __init__(self, graph: nx.Graph) -> None:
        self._after: Neighbours = dict(graph.adjacency())
        self._before: Neighbours = self._after
        if isinstance(graph, nx.DiGraph):
            self._before = dict(graph.reverse(copy=False).adjacency())
        self._forwards = forwards(graph)
        self._searches: dict[Hashable, _Search] = {}

    def path(self, source: Hashable, target: Hashable) -> tuple[Hashable, ...]:
        """The nodes from source to target, both included. ValueError if there is no such node or no way."""
        for node in (source, target):
            if node not in self._after:
                raise ValueError(f"there is no node {node!r} in the network")
        head: list[Hashable] = []
        tail: list[Hashable] = []
        if source != target and len(self._after[source]) == 1:
            head = [source]
            (source,) = self._after[source]
        if source != target and len(self._before[target]) == 1:
            tail = [target]
            (target,) = self._before[target]
        return (*head, *self._between(source, target), *tail)

    def _direct(self, source: Hashable, target: Hashable) -> list[Hashable]:
        if target not in self._after[source]:
            raise ValueError(f"there is no link from {source!r} to {target!r}, and nobody forwards in the network")
        return [source, target]

    def _between(self, source: Hashable, target: Hashable) -> list[Hashable]:
        if source == target:
            return [source]
        if not self._forwards:
            return self._direct(source, target)
        if target not in self._searches:
            self._searches[target] = _Search(self._before, target)
        return self._searches[target].path(source)


class _Search:
    """Dijkstra's search from one target against the traffic. It can be resumed."""

    def __init__(self, before: Neighbours, target: Hashable) -> None:
        self._before = before
        self._target = target
        self._next: dict[Hashable, Hashable] = {}  # where a transfer goes from each node, by the best way so far
        self._cost: dict[Hashable, tuple[float, int]] = {target: (0.0, 0)}  # of that way: latency and hops
        self._order = count()  # the last word among equals, as nodes cannot be compared
        self._border: list[tuple[float, int, int, Hashable]] = [(0.0, 0, next(self._order), target)]

    def path(self, source: Hashable) -> list[Hashable]:
        while not self._is_settled(source):
            if not self._border:
                raise ValueError(f"there is no way from {source!r} to {self._target!r} in the network")
            self._step()
        path = [source]
        while path[-1] != self._target:
            path.append(self._next[path[-1]])
        return path

    def _is_settled(self, node: Hashable) -> bool:
        """Whether nothing that is still to come is better: what is equal comes too late."""
        return node in self._cost and (not self._border or self._cost[node] <= self._border[0][:2])

    def _step(self) -> None:
        latency, hops, _, node = heappop(self._border)
        if (latency, hops) != self._cost[node]:
            return
        for neighbour, edge in self._before[node].items():
            cost = latency + edge["latency"], hops + 1
            if neighbour not in self._cost or cost < self._cost[neighbour]:
                self._cost[neighbour], self._next[neighbour] = cost, node
                heappush(self._border, (*cost, next(self._order), neighbour))
