"""Transfers that are all known beforehand: when each of them is complete."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import inf, isfinite
from typing import TypedDict

import networkx as nx

from fedsim.network.fluid import Fluid
from fedsim.network.sharing import Flow


class Transfer(TypedDict):
    """One transfer, as `finish_times` is asked about it."""

    path: Sequence[Hashable]
    """The nodes it passes."""
    bytes: float
    start: float
    """Seconds."""


def finish_times(graph: nx.Graph, flows: Sequence[Transfer]) -> list[float]:
    """When each transfer is complete (seconds): its start, the latency of its path, then its time on the shared links.

    The graph is one that `Fluid` accepts. A transfer that a link without capacity holds up for ever is never complete
    (infinity). ValueError names what it cannot use.

    >>> graph = nx.DiGraph([("a", "b", {"capacity": 100.0, "latency": 0.5})])
    >>> finish_times(graph, [{"path": ["a", "b"], "bytes": 100, "start": start} for start in (0.0, 0.5)])
    [2.0, 2.5]
    """
    fluid = Fluid(graph)
    for flow in flows:
        if not isfinite(flow["start"]):
            raise ValueError(f"a transfer starts at {flow['start']!r} s: expected a finite number")
    starts = [flow["start"] + fluid.way(flow["path"]).latency for flow in flows]
    opened: dict[int, Flow] = {}
    for index in sorted(range(len(flows)), key=starts.__getitem__):
        opened[index] = fluid.open(flows[index]["path"], flows[index]["bytes"], starts[index])
    fluid.advance(inf)
    return [opened[index].finish for index in range(len(flows))]
