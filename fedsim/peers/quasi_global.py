"""QG-DSGDm: a momentum that follows where the whole network goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from fedsim.peers.exchange import Mixes, zeros

if TYPE_CHECKING:
    from fedsim.clock import Steps
    from fedsim.node import Node


@dataclass(frozen=True, kw_only=True)
class QGDSGDm(Mixes):
    """Quasi-global momentum: Lin et al., ICML 2021, Algorithm 1.

    x_half = x - lr (g + beta m), x' = W x_half, m <- mu m + (1 - mu) (x - x') / lr. Here m is kept in units of x, that
    is times lr, so that no learning rate needs to be known; with one local step of plain SGD it is the paper's rule.
    After more steps the momentum is added once, at their end.
    """

    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9
    mu: Annotated[float, Field(ge=0, lt=1)] = 0.9
    resumable: ClassVar[bool] = True

    def run(self, node: Node) -> Steps:
        """One peer."""
        node.memory["m"] = zeros(node)
        for round in node.rounds():
            pending = yield from node.train()
            half = node.params + pending.result().delta - self.beta * node.memory["m"]
            [mixed] = yield from self.exchange.mix(node, round, half)
            node.memory["m"] = self.mu * node.memory["m"] + (1 - self.mu) * (node.params - mixed)
            node.params = mixed
