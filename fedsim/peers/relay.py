"""RelaySGD: sums that are relayed along a tree reach everybody, each with the delay of its way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import networkx as nx

from fedsim.errors import ScenarioError
from fedsim.vector import total

if TYPE_CHECKING:
    from fedsim.clock import Steps
    from fedsim.node import Node


@dataclass(frozen=True, kw_only=True)
class RelaySGD:
    """Vogels et al., NeurIPS 2021, Algorithm 1, on a tree.

    To each neighbour goes the own model plus what the other neighbours relayed a round before, with the number of
    models in the sum; the new model is the mean of all that has come. So x_i is the mean over all peers j of j's model
    d(i, j) - 1 rounds ago, whatever their data, as soon as the farthest is heard of.
    """

    graph: Any = "spanning_tree"
    resumable: ClassVar[bool] = True

    @cached_property
    def neighbours(self) -> dict[int, list[int]]:
        """Of each peer."""
        graph: nx.Graph = self.graph.graph()
        if not nx.is_tree(graph):
            raise ScenarioError("peers.relay_sgd: the graph has a cycle, in which sums would go round for ever; "
                                "take spanning_tree, path, star or binary_tree")  # fmt: skip
        return {peer: sorted(graph[peer]) for peer in graph}

    def __post_init__(self) -> None:
        _ = self.neighbours  # refused before anything runs

    def run(self, node: Node) -> Steps:
        """One peer; `memory` holds what each neighbour relayed last: a sum (P,) and how many models are in it."""
        near = self.neighbours[node.name]
        node.memory["relayed"] = {}
        for round in node.rounds():
            pending = yield from node.train()
            node.memory["half"] = node.params + pending.result().delta
            for peer in near:
                sums = [relayed for other, relayed in node.memory["relayed"].items() if other != peer]
                models = total([node.memory["half"], *(vector for vector, _ in sums)])
                node.send(peer, round, models, 1 + sum(number for _, number in sums))
            node.memory["relayed"] = yield from node.hear(near, round)
            heard = node.memory["relayed"].values()
            node.params = total([node.memory["half"], *(vector for vector, _ in heard)]) / (
                1 + sum(number for _, number in heard)
            )
