"""AD-PSGD: nobody waits for anybody's training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import networkx as nx

from fedsim.errors import ScenarioError
from fedsim.rng import chance

if TYPE_CHECKING:
    from fedsim.clock import Steps
    from fedsim.node import Node


@dataclass(frozen=True, kw_only=True)
class ADPSGD:
    """Asynchronous D-PSGD (Lian et al., ICML 2018): after each training, average with one random neighbour.

    The gradient is that of the model at the training's start; averaging may have changed it meanwhile. As there, the
    graph is bipartite: the active half asks, the passive half answers at once, so no two averagings overlap and nobody
    waits in a circle. Both halves train.
    """

    graph: Any = "ring"
    seed: int = 0
    resumable: ClassVar[bool] = True

    @cached_property
    def neighbours(self) -> dict[int, list[int]]:
        """Whom each active peer may ask."""
        graph: nx.Graph = self.graph.graph()
        if not nx.is_bipartite(graph):
            raise ScenarioError("peers.adpsgd: the graph has a cycle of odd length, in which peers would wait for one "
                                "another; take a ring of an even number, a grid or a tree")  # fmt: skip
        sides = nx.bipartite.color(graph)
        return {peer: sorted(graph[peer]) for peer in graph if sides[peer] and graph[peer]}

    def __post_init__(self) -> None:
        _ = self.neighbours  # refused before anything runs

    def run(self, node: Node) -> Steps:
        """One peer, active or passive."""
        if node.name not in self.neighbours:
            node.beside(self.answer(node))
        for round in node.rounds():
            pending = yield from node.train()
            if node.name in self.neighbours:
                peer = self.draw(node.name, round)
                node.send(peer, "ask", node.params)
                heard = yield from node.hear([peer], "answer")
                [node.params] = heard[peer]
            node.params = node.params + pending.result().delta

    def answer(self, node: Node) -> Steps:
        """A passive peer averages with whoever asks."""
        while True:
            peer, [theirs] = yield from node.hear_anybody("ask")
            node.params = (node.params + theirs) / 2
            node.send(peer, "answer", node.params)

    def draw(self, peer: int, round: int) -> int:
        """A neighbour, uniformly."""
        near = self.neighbours[peer]
        return near[int(chance(self.seed, "adpsgd", peer, round) * len(near))]
