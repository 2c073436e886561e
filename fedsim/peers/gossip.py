"""Train, then mix: gossip, with global merges where a schedule says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from fedsim.mixing.drawn import Epidemic
from fedsim.mixing.merging import Every, Never
from fedsim.peers.collectives import Ring
from fedsim.peers.exchange import Mixes

if TYPE_CHECKING:
    from fedsim.clock import Steps
    from fedsim.node import Node

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Gossip(Mixes):
    """Local steps, then x_i <- sum_j W_ij x_j, or the mean of all where `merge` says so.

    Zhu et al., "On the Surprising Effectiveness of a Single Global Merging in Decentralized Learning" (ICLR 2026), is
    this with `mixing: {directed_pull: {partners: 0.2}}` and `merge: last`. A peer waits for those whom it hears and for
    nobody else. What is pulled is sent as soon as it is there: both ends know the draw, so nobody asks for it.
    """

    merge: Any = Never()
    collective: Any = Ring()
    exchanges_models: ClassVar[bool] = True
    """Whether all that it sends are models, so that peers can lie about them, and be defended against that."""
    resumable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.merge.dense(0)  # a schedule that does not know enough is refused before anything runs

    def run(self, node: Node) -> Steps:
        """One peer."""
        for round in node.rounds():
            pending = yield from node.train()
            half = node.said(node, node.params + pending.result().delta)
            if self.merge.dense(round):
                node.params = yield from self.collective.mean(node, round, half)
            else:
                [node.params] = yield from self.exchange.mix(node, round, half)


@dataclass(frozen=True)
class Local:
    """Everybody for itself."""

    resumable: ClassVar[bool] = True

    def run(self, node: Node) -> Steps:
        """One peer."""
        for _ in node.rounds():
            pending = yield from node.train()
            node.params = node.params + pending.result().delta


def gossip_pga(mixing: Any, period: Count = 48, collective: Any = Ring()) -> Gossip:
    """Gossip-PGA (Chen et al., ICML 2021): gossip, and every `period` rounds the mean of all."""
    return Gossip(mixing=mixing, merge=Every(period=period), collective=collective)


def epidemic(clients: int, seed: int, partners: Annotated[int, Field(ge=1)] = 1, oracle: bool = False) -> Gossip:
    """Epidemic Learning (de Vos et al., NeurIPS 2023): each sends its model to some others, drawn anew each round."""
    return Gossip(mixing=Epidemic(clients=clients, seed=seed, partners=partners, oracle=oracle), collective=Ring())
