"""Links that become slow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import networkx as nx
from pydantic import Field

from fedsim.faults.fault import Draw, Lasting
from fedsim.network import Degraded, Node, Outage, broken_links
from fedsim.units import SECOND


@dataclass(frozen=True, kw_only=True)
class Degrade(Lasting):
    """The links `between` two neighbours, or all, carry a `share` of what they do, for a while.

    A link without a limit has none then either.
    """

    anywhere: ClassVar[bool] = True
    share: Annotated[float, Field(gt=0, lt=1)]
    between: tuple[Node, Node] | None = None

    def weaken(self, graph: nx.Graph, draw: Draw) -> None:
        """See `Fault`."""
        periods = self.periods(draw)
        whole = Outage(start=0, end=self.lasts, between=self.between) if self.between else None
        links = list(graph.edges) if whole is None else broken_links(graph, whole, "faults.degrade")
        for link in links:
            edge = graph.edges[link]
            seconds = [(start / SECOND, end / SECOND) for start, end in periods]
            edge["capacity"] = Degraded(edge["capacity"], seconds, self.share)
