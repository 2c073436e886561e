"""Networks that fall apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import networkx as nx

from fedsim.errors import ScenarioError
from fedsim.faults.fault import Draw, Lasting
from fedsim.network import Node, Outage, broken_links


@dataclass(frozen=True, kw_only=True)
class Partition(Lasting):
    """The network is `split` for a while, as by an outage; None: into halves of the clients, drawn anew each time.

    What transfers do meanwhile is said by `links.on_outage`.
    """

    anywhere: ClassVar[bool] = True
    split: tuple[tuple[Node, ...], ...] | None = None

    def outages(self, graph: nx.Graph, clients: int, draw: Draw) -> Sequence[Outage]:
        """See `Fault`. ScenarioError if there is nobody to be parted, or the network is not as described."""
        if self.split is None and clients < 2:
            raise ScenarioError("faults.partition: one client has no halves")
        found = [
            Outage(start=start, end=end, split=self.split or _halves(clients, number, draw))
            for number, (start, end) in enumerate(self.periods(draw))
        ]
        broken_links(graph, found[0], "faults.partition")
        return found


def _halves(clients: int, number: int, draw: Draw) -> tuple[tuple[int, ...], ...]:
    """The n-th time's."""
    order = sorted(range(clients), key=lambda client: draw("side", number, client))
    return tuple(sorted(order[: clients // 2])), tuple(sorted(order[clients // 2 :]))
