"""The mixing step x_i <- sum_j W_ij x_j as messages between peers.

An algorithm of peers is a generator over a node's verbs and reads like its paper. All numbers that it needs after a
verb are the node's (`params`, `memory`, `post`), so that a run can be taken up in the middle.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedsim.vector import weighted_sum

if TYPE_CHECKING:
    from fedsim.clock import Moment
    from fedsim.mixing import Mixing, Row
    from fedsim.node import Node

Mixed = Generator["Moment", None, list[Tensor]]

REMEMBERED = 64
"""Rounds whose matrices are at hand, as not all peers are in the same."""


class Exchange:
    """Tells the peers who are to hear of it, hears whom the matrix names, and mixes."""

    def __init__(self, mixing: Mixing):
        self.mixing = mixing
        self.at = lru_cache(REMEMBERED)(self._at)

    def _at(self, round: int) -> tuple[Sequence[Row], list[list[int]]]:
        """W of a round, and for each peer who else hears it."""
        rows = self.mixing.rows(round)
        hearers: list[list[int]] = [[] for _ in rows]
        for peer, row in enumerate(rows):
            for other in row.keys() - {peer}:
                hearers[other].append(peer)
        return rows, hearers

    def hearers(self, node: Node, round: int) -> list[int]:
        """Who else hears a peer in this round."""
        return self.at(round)[1][node.name]

    def tell(self, node: Node, round: int, *parts: Any, subject: Hashable = "mixing") -> None:
        """Send vectors (P,) and numbers to all who are to hear them, itself among them."""
        for peer in self.hearers(node, round):
            node.send(peer, (subject, round), *parts)
        node.accept(node.name, (subject, round), parts)

    def gather(self, node: Node, round: int, subject: Hashable = "mixing") -> Mixed:
        """What the matrix makes of all that was told in this round, one result for each part."""
        row = self.at(round)[0][node.name]
        heard = yield from node.hear(row.keys() | {node.name}, (subject, round))
        if node.defence is not None:
            others = [peer for peer in sorted(row) if peer != node.name]
            parts = zip(heard[node.name], *(heard[peer] for peer in others), strict=True)
            return [node.defence.around(own, part, [row[peer] for peer in others]) for own, *part in parts]
        parts = zip(*(heard[peer] for peer in sorted(row)), strict=True)
        return [weighted_sum(part, [row[peer] for peer in sorted(row)]) for part in parts]

    def mix(self, node: Node, round: int, *vectors: Tensor, subject: Hashable = "mixing") -> Mixed:
        """Tell, and gather."""
        self.tell(node, round, *vectors, subject=subject)
        return (yield from self.gather(node, round, subject))


@dataclass(frozen=True, kw_only=True)
class Mixes:
    """What has a mixing matrix for each round."""

    mixing: Any = "metropolis"
    """A `fedsim.mixing.Mixing`; a scenario that names none means the Metropolis weights of the network's links."""

    def __post_init__(self) -> None:
        self.exchange.at(0)  # what cannot be mixed is refused before anything runs

    @cached_property
    def exchange(self) -> Exchange:
        """Of what is mixed, by `mixing`."""
        return Exchange(self.mixing)


def zeros(node: Node) -> Tensor:
    """As long as the model, (P,)."""
    return torch.zeros_like(node.params)
