"""Gradient tracking: every peer follows the mean gradient of all, so different data do not pull peers apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from fedsim.drift import Offset
from fedsim.errors import ScenarioError
from fedsim.mixing.mixing import matrix
from fedsim.peers.exchange import Mixed, Mixes, zeros

if TYPE_CHECKING:
    from fedsim.clock import Steps
    from fedsim.node import Node


@dataclass(frozen=True, kw_only=True)
class GradientTracking(Mixes):
    """x <- W (x - lr y), y <- W y + g' - g (Di Lorenzo & Scutari, 2016), in the form that allows local steps.

    K-GT (Liu et al., 2024): each local step moves along the gradient plus c, and c <- (W y) - g with y = g + c, where g
    is the mean of the gradients on the way. With one step y is the classical tracker. Two vectors a message.
    """

    drift: ClassVar[Offset] = Offset()
    resumable: ClassVar[bool] = True

    def run(self, node: Node) -> Steps:
        """One peer."""
        node.memory["c"] = zeros(node)
        for round in node.rounds():
            pending = yield from node.train(sent=node.memory["c"])
            result = pending.result()
            node.memory |= {"g": result.extra}
            node.params, tracked = yield from self.mix(node, round, node.params + result.delta)
            node.memory["c"] = tracked - node.memory["g"]

    def mix(self, node: Node, round: int, half: Tensor) -> Mixed:
        """W applied to x - lr y and to y = g + c."""
        return (yield from self.exchange.mix(node, round, half, node.memory["g"] + node.memory["c"]))


@dataclass(frozen=True, kw_only=True)
class DeTAG(GradientTracking):
    """Gradient tracking whose mixing is `gossips` steps of accelerated gossip: after Lu & De Sa, ICML 2021.

    X_{r+1} = (1 + eta) W X_r - eta X_{r-1} with eta = (1 - sqrt(1 - s^2)) / (1 + sqrt(1 - s^2)), where s is W's second
    largest singular value (Liu & Morse, 2011). The paper draws the gradients of the next phase while it gossips; here a
    peer trains, then gossips, so each training sees the newest model. W has to be symmetric and the same each round.
    """

    gossips: Annotated[int, Field(ge=1)] = 2

    @cached_property
    def eta(self) -> float:
        """How far a step goes on in the direction of the last. ScenarioError if W is not symmetric or not fixed."""
        first, second = (matrix(self.mixing.rows(round)) for round in (0, 1))
        if not (np.array_equal(first, second) and np.allclose(first, first.T)):
            raise ScenarioError("peers.detag: its mixing has to be symmetric and the same in each round: metropolis")
        singular = np.linalg.svd(first, compute_uv=False)
        root = sqrt(max(0.0, 1 - min(1.0, singular[1] if len(singular) > 1 else 0.0) ** 2))
        return (1 - root) / (1 + root)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.eta  # which not every W has

    def mix(self, node: Node, round: int, half: Tensor) -> Mixed:
        """The accelerated gossip of x - lr y and of y = g + c."""
        node.memory["now"] = node.memory["before"] = [half, node.memory["g"] + node.memory["c"]]
        for step in range(self.gossips):
            mixed = yield from self.exchange.mix(node, round, *node.memory["now"], subject=("gossip", step))
            ahead = [new + self.eta * (new - old) for new, old in zip(mixed, node.memory["before"], strict=True)]
            node.memory |= {"before": node.memory["now"], "now": ahead}
        return node.memory["now"]
