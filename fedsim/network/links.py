"""The links of a graph: checked, found by their ends, and with capacities that can be summed without rounding."""

from __future__ import annotations

import sys
from collections.abc import Collection, Hashable, Mapping, Sequence
from itertools import pairwise
from math import fsum, inf, nan
from typing import Any

import networkx as nx

from fedsim.network.sharing import Link, Way

GUARD_BITS = 64
"""An equal share is rounded down to a whole number of units, so units are this much finer than capacities need."""
BEYOND_MEASURE = 2.0**100
"""Bytes per second that stand for an infinite capacity where it does not last: sums of it stay numbers."""


class Links:
    """All links of a graph, each made when it is first used.

    ValueError names the edge that lacks a capacity above 0 (bytes per second; or one that varies) or a latency of 0 or
    more (seconds).
    """

    def __init__(self, graph: nx.Graph) -> None:
        if graph.is_multigraph():
            raise ValueError("a multigraph will not do: a path of nodes does not tell parallel edges apart")
        self._graph = graph
        self._made: dict[tuple[Hashable, Hashable], Link] = {}
        self._ways: dict[tuple[Hashable, ...], Way] = {}
        capacities = {_checked(*edge)[0] for edge in graph.edges(data=True)}
        capacities |= set().union(*{c.levels for *_, c in graph.edges(data="capacity") if hasattr(c, "levels")})
        finest = max((capacity.as_integer_ratio()[1] for capacity in capacities if capacity < inf), default=1)
        self.scale = finest << GUARD_BITS
        """Units in one byte per second. A float is a whole number over a power of two, so the finest fits all."""

    def along(self, path: Sequence[Hashable]) -> Way:
        """What is to know of a path. ValueError if it has no nodes, no such edge, or one link twice."""
        path = tuple(path)
        return self._ways.get(path) or self._explore(path)

    def used(self) -> set[Link]:
        """Those that a path has led along so far."""
        return set(self._made.values())

    def turn(self, link: Link, now: float) -> int:
        """Give a link that varies the capacity of this moment; by how much it has grown, in units."""
        assert link.varying is not None
        before = link.units
        capacity, link.until = link.varying.at(now)
        link.capacity = min(capacity, BEYOND_MEASURE)
        link.units = self._units(link.capacity)
        link.slack += link.units - before
        return link.units - before

    def _explore(self, path: tuple[Hashable, ...]) -> Way:
        links = [self._made.get(ends) or self._make(*ends) for ends in pairwise(path)]
        if len(set(links)) < len(links):
            raise ValueError(f"the path {list(path)!r} uses a link twice")
        if not links and (not path or path[0] not in self._graph):
            raise ValueError(f"the path {list(path)!r} is not in the graph")
        finite = tuple(link for link in links if link.peak[0])
        cap, top_rate = min((link.peak for link in finite), default=(0, inf))
        way = self._ways[path] = Way(path, finite, cap, top_rate, fsum(link.latency for link in links))
        return way

    def _make(self, source: Hashable, target: Hashable) -> Link:
        if not self._graph.has_edge(source, target):
            raise ValueError(f"there is no link {source!r} -> {target!r}")
        edge = self._graph[source][target]
        capacity, latency = _checked(source, target, edge)
        varying = edge["capacity"] if hasattr(edge["capacity"], "levels") else None
        until = inf
        if varying:
            capacity, until = min(capacity, BEYOND_MEASURE), -inf
        units = self._units(capacity)
        link = Link(capacity, latency, units, units, (units, capacity), varying, until)
        self._made[source, target] = link
        if not self._graph.is_directed():
            self._made[target, source] = link
        return link

    def _units(self, capacity: float) -> int:
        """A capacity in units; 0 if it is infinite."""
        if capacity == inf:
            return 0
        whole, fraction = capacity.as_integer_ratio()
        return whole * (self.scale // fraction)


def _checked(source: Hashable, target: Hashable, edge: Mapping[str, Any]) -> tuple[float, float]:
    """A link's capacity, the largest if it varies, and its latency."""
    link = f"the link {source!r} -> {target!r}"
    levels: Collection[float] | None = getattr(edge.get("capacity"), "levels", None)
    if levels is not None:
        if not all(level >= 0 for level in levels):
            raise ValueError(f"{link} has the capacities {sorted(levels)!r}, of which none may be below 0")
        edge = {**edge, "capacity": max(levels)}
    capacity = _number(link, edge, "capacity", sys.float_info.min, inf, "a number of bytes per second above 0")
    latency = _number(link, edge, "latency", 0.0, sys.float_info.max, "a number of seconds, 0 or more")
    return capacity, latency


def _number(link: str, edge: Mapping[str, Any], name: str, least: float, most: float, words: str) -> float:
    try:
        value = float(edge[name])
    except KeyError:
        raise ValueError(f"{link} has no {name}") from None
    except (TypeError, ValueError, OverflowError):
        value = nan
    if not least <= value <= most:
        raise ValueError(f"{link} has the {name} {edge[name]!r}, which is not {words}")
    return value
