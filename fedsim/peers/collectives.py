"""How all peers come to know the mean of their models: the same numbers, another time and another traffic."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from fedsim.vector import mean

if TYPE_CHECKING:
    from fedsim.clock import Moment
    from fedsim.node import Node

Merged = Generator["Moment", None, Tensor]


class Collective(Protocol):
    """A way to merge globally."""

    def mean(self, node: Node, round: int, own: Tensor) -> Merged:
        """One peer's part in it; what it ends up with is the mean of all peers' vectors (P,) of this round."""
        ...


@dataclass(frozen=True)
class Ring:
    """Ring all-reduce (Patarasu & Yuan, 2009): pieces of 1/m of the model go round twice, summed first, then whole.

    Each of m peers sends 2 (m - 1) pieces to the next one, by number: 2 (m - 1) P bytes in all.
    """

    def mean(self, node: Node, round: int, own: Tensor) -> Merged:
        """One peer's part. What is summed on the way is noted by name, so that the sum does not depend on the way."""
        following, former = (node.name + 1) % node.peers, (node.name - 1) % node.peers
        node.memory["models"] = {node.name: own}
        for step in range(2 * (node.peers - 1)):
            piece = (node.name - step) % node.peers
            nbytes = node.work.up // node.peers + (piece < node.work.up % node.peers)
            node.send(following, ("ring", round, step), node.memory["models"], nbytes=nbytes)
            heard = yield from node.hear([former], ("ring", round, step))
            node.memory["models"] = node.memory["models"] | heard[former][0]
        return _mean(node)


@dataclass(frozen=True)
class Tree:
    """Sums go up a binary tree of the peers' numbers, the mean comes down: 2 (m - 1) P bytes in all."""

    def mean(self, node: Node, round: int, own: Tensor) -> Merged:
        """One peer's part."""
        node.memory["models"] = {node.name: own}
        above = [(node.name - 1) // 2] if node.name else []
        below = [child for child in (2 * node.name + 1, 2 * node.name + 2) if child < node.peers]
        yield from _collect(node, below, ("up", round))
        _tell(node, above, ("up", round))
        if above:
            yield from _collect(node, above, ("down", round))
        _tell(node, below, ("down", round))
        return _mean(node)


@dataclass(frozen=True)
class Direct:
    """Everybody sends its model to everybody: m (m - 1) P bytes in all, and no waiting for third ones."""

    def mean(self, node: Node, round: int, own: Tensor) -> Merged:
        """One peer's part."""
        others = [peer for peer in range(node.peers) if peer != node.name]
        node.memory["models"] = {node.name: own}
        _tell(node, others, ("direct", round))
        yield from _collect(node, others, ("direct", round))
        return _mean(node)


def _collect(node: Node, peers: Iterable[int], subject: tuple[str, int]) -> Generator[Moment, None, None]:
    heard = yield from node.hear(peers, subject)
    for models, *_ in heard.values():
        node.memory["models"] = node.memory["models"] | models


def _tell(node: Node, peers: Iterable[int], subject: tuple[str, int]) -> None:
    for peer in peers:
        node.send(peer, subject, node.memory["models"], nbytes=node.work.up)


def _mean(node: Node) -> Tensor:
    models = node.memory.pop("models")
    return mean([models[peer] for peer in sorted(models)])


COLLECTIVES = {"ring": Ring, "tree": Tree, "direct": Direct}
