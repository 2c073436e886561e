"""What is down when, and which ways are left meanwhile."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable
from math import inf
from typing import Literal

import networkx as nx

from fedsim.network.capacity import Interrupted
from fedsim.network.routes import Routes
from fedsim.network.sharing import Way

Policy = Literal["stall", "reroute", "fail"]
"""What transfers do when a link of theirs is down."""


def policy_of(graph: nx.Graph) -> Policy:
    """Which of them a graph asks for."""
    return graph.graph.get("on_outage", "stall")


class Outages:
    """The outages of a graph's links: those whose capacity is `Interrupted`."""

    def __init__(self, graph: nx.Graph) -> None:
        self.policy: Policy = policy_of(graph)
        self._graph = graph
        edges = graph.edges(data="capacity")
        self._links = [(u, v, capacity) for u, v, capacity in edges if isinstance(capacity, Interrupted)]
        ends = {end for *_, link in self._links for outage in link.outages for end in outage}
        self.changes = sorted(ends - {inf})
        """When outages begin or end (seconds)."""
        self._routes = -1, Routes(graph)

    def concern(self, way: Way) -> bool:
        """Whether a link on this way is ever down."""
        return any(isinstance(link.varying, Interrupted) for link in way.links)

    def broken(self, way: Way, now: float) -> bool:
        """Whether a link on this way is down."""
        return any(isinstance(link.varying, Interrupted) and link.varying.is_down(now) for link in way.links)

    def path(self, source: Hashable, target: Hashable, now: float) -> tuple[Hashable, ...] | None:
        """The best way over links that are not down; None if there is none."""
        epoch = bisect_right(self.changes, now)
        if epoch != self._routes[0]:
            up = self._graph.copy()
            up.remove_edges_from([(u, v) for u, v, link in self._links if link.is_down(now)])
            self._routes = epoch, Routes(up)
        try:
            return self._routes[1].path(source, target)
        except ValueError:
            return None

    def next_change(self, now: float) -> float:
        """When an outage begins or ends next (seconds); infinite if none does."""
        place = bisect_right(self.changes, now)
        return self.changes[place] if place < len(self.changes) else inf
