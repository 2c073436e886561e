"""Mixings that take turns: a few sparse matrices, one after the other, whose product averages everybody exactly."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations

from fedsim.mixing.mixing import Mixing, Row, alike
from fedsim.network.generated import Count

Nodes = Sequence[int]
Links = dict[tuple[int, int], float]
"""A symmetric matrix: the weight of each pair that hears each other. What is left of a row is the node's own."""


@dataclass(frozen=True, kw_only=True)
class Periodic(Mixing):
    """Doubly stochastic matrices W(0), W(1), ..., W(period - 1), and again from the first."""

    @abstractmethod
    def turns(self) -> Sequence[Sequence[Row]]:
        """The rows of each matrix."""

    @cached_property
    def _turns(self) -> Sequence[Sequence[Row]]:
        return self.turns()

    def rows(self, round: int) -> Sequence[Row]:
        """Those whose turn it is."""
        return self._turns[round % self.period]

    @property
    def period(self) -> int:
        """How many rounds there are until the first matrix comes again, at least 1."""
        return len(self._turns)

    @property
    def doubly(self) -> bool:
        """Always."""
        return True


@dataclass(frozen=True, kw_only=True)
class OnePeerExponential(Periodic):
    """At round t each peer hears one other, 2 ** (t mod tau) further on, half and half; tau = ceil(log2 m).

    Ying et al. (Exponential Graph is Provably Efficient for Decentralized Deep Training, NeurIPS 2021). If the number
    of peers m is a power of two, tau rounds in a row average everybody exactly; if not, no number of rounds does.
    """

    def turns(self) -> Sequence[Sequence[Row]]:
        """One for each power of two below m."""
        m = self.clients
        powers = [2**power for power in range((m - 1).bit_length())] or [0]
        return [[alike(peer, [(peer + offset) % m]) for peer in range(m)] for offset in powers]


@dataclass(frozen=True, kw_only=True)
class Base(Periodic):
    """The Base-(k + 1) graph: each peer hears at most k others, and a period averages any number of peers exactly.

    Takezawa et al. (Beyond Exponential Graph: Communication-Efficient Topologies for Decentralized Learning via
    Finite-time Convergence, NeurIPS 2023), Algorithms 1 to 3. A period has at most 2 log(m) / log(k + 1) + 2 rounds for
    m peers.
    """

    degree: Count = 1
    """k, how many others a peer hears at most in one round."""

    def turns(self) -> Sequence[Sequence[Row]]:
        """The shorter of the simple graph and of that which takes the small factors of m apart (Algorithm 3)."""
        return [rows(self.clients, links) for links in base(range(self.clients), self.degree)]


def rows(clients: int, links: Links) -> Sequence[Row]:
    """The symmetric matrix with these links, whose rows sum to 1."""
    table: list[dict[int, float]] = [{peer: 1.0} for peer in range(clients)]
    for (one, other), weight in links.items():
        for peer, heard in ((one, other), (other, one)):
            table[peer][heard] = weight
            table[peer][peer] -= weight
    return [dict(sorted(row.items())) for row in table]


def base(nodes: Nodes, k: int) -> list[Links]:
    """Algorithm 3: with m = p q, where p has all the prime factors up to k + 1, first p sets of q nodes each agree."""
    p = len(nodes) // rough(len(nodes), k)
    q = len(nodes) // p
    within = [simple(nodes[start : start + q], k) for start in range(0, len(nodes), q)]
    across = [hypercube(nodes[start::q], k) for start in range(q)]
    return min([*together(within), *together(across)], simple(nodes, k), key=len)


def simple(nodes: Nodes, k: int) -> list[Links]:
    """Algorithm 2, the simple Base-(k + 1) graph.

    The nodes are cut up by the digits of their number in base k + 1 (`digits`). First each part averages within. Then
    each part in turn meets all later ones: every later node hears one node of each block of the part, and after that
    the mean of every block is that of all nodes. From then on blocks average within.
    """
    if rough(len(nodes), k) == 1:
        return hypercube(nodes, k)
    parts = digits(nodes, k)
    last = len(parts) - 1
    rounds = together([hypercube(flat(blocks), k) for blocks in parts])
    settling = [together([hypercube(block, k) for block in settled(blocks)]) for blocks in parts]
    for turn in range(1 + len(settling[0])):
        links = meeting(parts[turn], flat(map(flat, parts[turn + 1 :])), k) if turn < last else {}
        for place, cycle in enumerate(settling):
            start = min(place + 1, last)
            links |= cycle[(turn - start) % len(cycle)] if turn >= start else {}
        rounds.append(links)
    return rounds


def hypercube(nodes: Nodes, k: int) -> list[Links]:
    """Algorithm 1, the k-peer hyper-hypercube, for numbers of nodes without a prime factor above k + 1.

    With m = n_1 n_2 ..., one round for each factor: groups of n_1 nodes average, then groups of n_2 nodes of different
    former groups, and so on.
    """
    rounds, stride = [], 1
    for size in factors(len(nodes), k):
        starts = [start for start in range(len(nodes)) if start // stride % size == 0]
        rounds.append(averaged([[nodes[start + stride * step] for step in range(size)] for start in starts]))
        stride *= size
    return rounds


def meeting(blocks: Sequence[Nodes], later: Nodes, k: int) -> Links:
    """Every later node hears one node of each block; nodes that nobody hears average in groups of up to k + 1."""
    part = flat(blocks)
    weight = len(part) / (len(part) + len(later)) / len(blocks)
    links = {(node, block[place]): weight for place, node in enumerate(later) for block in blocks}
    idle = flat(block[len(later) :] for block in blocks)
    return links | averaged([idle[start : start + k + 1] for start in range(0, len(idle), k + 1)])


def settled(blocks: Sequence[Nodes]) -> Sequence[Nodes]:
    """What averages within at the end: blocks, but those of one node together."""
    return blocks if len(blocks[0]) > 1 else [flat(blocks)]


def averaged(groups: Iterable[Nodes]) -> Links:
    """Within each group all count alike."""
    return {pair: 1 / len(group) for group in groups for pair in combinations(group, 2)}


def together(cycles: Sequence[Sequence[Links]]) -> list[Links]:
    """Side by side, among different nodes; the shorter ones begin again."""
    return [
        {pair: weight for cycle in cycles for pair, weight in cycle[turn % len(cycle)].items()}
        for turn in range(max(map(len, cycles)))
    ]


def digits(nodes: Nodes, k: int) -> list[list[Nodes]]:
    """The nodes as a_1 blocks of (k + 1) ** p_1, a_2 blocks of (k + 1) ** p_2, ..., with p_1 > p_2 > ... and a_l <= k.

    >>> digits(range(7), 2)
    [[range(0, 3), range(3, 6)], [range(6, 7)]]
    """
    size = 1
    while size * (k + 1) <= len(nodes):
        size *= k + 1
    parts, start = [], 0
    while start < len(nodes):
        count = (len(nodes) - start) // size
        if count:
            parts.append([nodes[start + block * size : start + (block + 1) * size] for block in range(count)])
        start += count * size
        size //= k + 1
    return parts


def factors(number: int, k: int) -> list[int]:
    """Factors up to k + 1, as large as can be, the last the largest; [1] where there is none.

    >>> factors(24, 3), factors(1, 3)
    ([2, 3, 4], [1])
    """
    found = []
    for factor in range(k + 1, 1, -1):
        while number % factor == 0:
            number //= factor
            found.append(factor)
    return found[::-1] or [1]


def rough(number: int, k: int) -> int:
    """What is left of a number without its factors up to k + 1.

    >>> rough(30, 2), rough(24, 3)
    (5, 1)
    """
    return number // math.prod(factors(number, k))


def flat(lists: Iterable[Iterable[int]]) -> list[int]:
    """One list after the other."""
    return list(chain.from_iterable(lists))
