"""Which way a transfer goes: least latency, and fewest hops among equals."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from heapq import heappop, heappush
from itertools import count

import networkx as nx

Neighbours = Mapping[Hashable, Mapping[Hashable, Mapping[str, float]]]


class Routes:
    """The best paths of a graph whose edges carry `latency` (seconds), found when they are asked for.

    A node with a single way out, or in, has no choice and needs no search: in a star nobody searches, and nothing is
    kept for each of its 100,000 clients. Between other nodes there is one search for each target, which goes only as
    far as it was asked. The answer depends on the graph alone, not on what was asked before.

    >>> graph = nx.Graph([("a", "b", {"latency": 1.0}), ("b", "c", {"latency": 1.0}), ("a", "c", {"latency": 3.0})])
    >>> Routes(graph).path("a", "c")
    ('a', 'b', 'c')
    """

    def __init__(self, graph: nx.Graph) -> None:
        self._after: Neighbours = dict(graph.adjacency())
        self._before: Neighbours = self._after
        if isinstance(graph, nx.DiGraph):
            self._before = dict(graph.reverse(copy=False).adjacency())
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

    def _between(self, source: Hashable, target: Hashable) -> list[Hashable]:
        if source == target:
            return [source]
        if target not in self._searches:
            self._searches[target] = _Search(self._before, target)
        return self._searches[target].path(source)


class _Search:
    """Dijkstra's search from one target against the traffic. It can be resumed."""

    def __init__(self, before: Neighbours, target: Hashable) -> None:
        self._before = before
        self._target = target
        self._next: dict[Hashable, Hashable] = {}  # where a transfer goes from each node that is reached
        self._order = count()  # the last word among equals, as nodes cannot be compared
        self._border: list[tuple[float, int, int, Hashable, Hashable]] = [(0.0, 0, next(self._order), target, target)]

    def path(self, source: Hashable) -> list[Hashable]:
        while source not in self._next:
            if not self._border:
                raise ValueError(f"there is no way from {source!r} to {self._target!r} in the network")
            self._step()
        path = [source]
        while path[-1] != self._target:
            path.append(self._next[path[-1]])
        return path

    def _step(self) -> None:
        latency, hops, _, node, after = heappop(self._border)
        if node in self._next:
            return
        self._next[node] = after
        for neighbour, edge in self._before[node].items():
            if neighbour not in self._next:
                heappush(self._border, (latency + edge["latency"], hops + 1, next(self._order), neighbour, node))
