"""Stochastic gradient push: mixing that only needs senders who know to how many they send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fedsim.peers.exchange import Mixes
from fedsim.vector import total

if TYPE_CHECKING:
    from fedsim.clock import Steps
    from fedsim.node import Node


@dataclass(frozen=True, kw_only=True)
class SGP(Mixes):
    """Push-sum with local steps: Assran et al., ICML 2019, Algorithm 1.

    Each sends equal parts of its x and its weight w, which starts at 1, to all who hear it and to itself (a
    column-stochastic matrix), adds up what it hears, and trains at z = x / w. Of `mixing` only the pattern counts.
    """

    mixing: Any = "one_peer_exponential"
    resumable: ClassVar[bool] = True

    def run(self, node: Node) -> Steps:
        """One peer; `node.params` is z."""
        node.memory |= {"x": node.params, "w": 1.0}
        for round in node.rounds():
            pending = yield from node.train()
            part = 1 / (1 + len(self.exchange.hearers(node, round)))
            x = node.memory["x"] + pending.result().delta
            self.exchange.tell(node, round, x * part, node.memory["w"] * part)
            senders = self.exchange.at(round)[0][node.name].keys() | {node.name}
            heard = (yield from node.hear(senders, ("mixing", round))).values()
            node.memory |= {"x": total([x for x, _ in heard]), "w": sum(w for _, w in heard)}
            node.params = node.memory["x"] / node.memory["w"]
