"""D-PSGD: neighbours exchange models while they train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.peers.exchange import Mixes

if TYPE_CHECKING:
    from fedsim.clock import Steps
    from fedsim.node import Node


@dataclass(frozen=True, kw_only=True)
class DPSGD(Mixes):
    """x_i <- sum_j W_ij x_j - lr g_i(x_i): Lian et al., NeurIPS 2017, Algorithm 1.

    The gradient is that of the model before mixing, so training and exchange take place at the same time.
    """

    resumable: ClassVar[bool] = True

    def run(self, node: Node) -> Steps:
        """One peer."""
        for round in node.rounds():
            self.exchange.tell(node, round, node.params)
            pending = yield from node.train()
            [mixed] = yield from self.exchange.gather(node, round)
            node.params = mixed + pending.result().delta
