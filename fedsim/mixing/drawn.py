"""Mixings that are drawn anew in every round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import networkx as nx
import numpy as np
from pydantic import Field

from fedsim.errors import ScenarioError
from fedsim.mixing.graphs import Overlay
from fedsim.mixing.mixing import Mixing, Row, alike
from fedsim.rng import stream
from fedsim.units import Probability


@dataclass(frozen=True, kw_only=True)
class Drawn(Mixing):
    """A matrix for each round, by `seed`, which is given by the run."""

    seed: int


@dataclass(frozen=True, kw_only=True)
class DirectedPull(Drawn):
    """Each peer hears `partners` others, drawn anew in every round; it and they count alike.

    The sparse gossip of "On the Surprising Effectiveness of a Single Global Merging in Decentralized Learning" (Zhu et
    al., ICLR 2026), as in its public code: floor(partners) others and, by chance, one more for the fraction. Rows sum
    to 1, columns do not: a round may move the mean of all peers. Without a graph it does not in expectation.
    """

    partners: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """How many others, in expectation; at most all there are."""
    graph: Overlay | None = None
    """Only neighbours are drawn. None: any of the others."""

    @property
    def doubly(self) -> bool:
        """Never promised."""
        return False

    def rows(self, round: int) -> Sequence[Row]:
        """Peers draw in the order of their numbers."""
        rng = stream(self.seed, "mixing", "directed_pull", round)
        sure = math.floor(self.partners)
        wanted = sure + (rng.random(self.clients) < self.partners - sure)
        return [alike(peer, self._some(rng, peer, int(count))) for peer, count in enumerate(wanted)]

    def _some(self, rng: np.random.Generator, peer: int, count: int) -> list[int]:
        if self._graph is None:
            return some_others(rng, peer, self.clients, count)
        return sample(rng, np.array(sorted(self._graph[peer]), int), count).tolist()

    @cached_property
    def _graph(self) -> nx.Graph | None:
        return self.graph and self.graph.graph()


@dataclass(frozen=True, kw_only=True)
class Matching(Drawn):
    """Peers meet in pairs, and each pair averages; whoever meets nobody keeps what it has.

    Randomized gossip (Boyd, Ghosh, Prabhakar and Shah, 2006), but with many pairs at once. The matrix is symmetric, so
    it is doubly stochastic: the mean of all peers stays. Without a graph all matchings are equally likely; with a graph
    its links are taken in random order, as long as both ends are free.
    """

    share: Probability = 1.0
    """Which part of all peers meets somebody, in expectation; less where the matching has fewer pairs."""
    graph: Overlay | None = None
    """Only neighbours meet. None: anybody."""

    @property
    def doubly(self) -> bool:
        """Always."""
        return True

    def rows(self, round: int) -> Sequence[Row]:
        """The pairs of a round."""
        rng = stream(self.seed, "mixing", "matching", round)
        pairs = self.share * self.clients / 2
        sure = math.floor(pairs)
        partner = {}
        for one, other in self._meetings(rng)[: sure + (rng.random() < pairs - sure)]:
            partner |= {one: [other], other: [one]}
        return [alike(peer, partner.get(peer, ())) for peer in range(self.clients)]

    def _meetings(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        """A random maximal matching, in random order."""
        if self._edges is None:
            order = rng.permutation(self.clients).tolist()
            return list(zip(order[::2], order[1::2], strict=False))
        met: set[int] = set()
        meetings = []
        for one, other in rng.permutation(self._edges).tolist():
            if met.isdisjoint((one, other)):
                met |= {one, other}
                meetings.append((one, other))
        return meetings

    @cached_property
    def _edges(self) -> np.ndarray | None:
        """(links, 2)."""
        return self.graph and np.array(self.graph.graph().edges, int).reshape(-1, 2)


@dataclass(frozen=True, kw_only=True)
class Epidemic(Drawn):
    """Epidemic Learning (de Vos et al., NeurIPS 2023): each peer sends to `partners` others, drawn anew in every round.

    A peer averages what it got and its own. In EL-Local each draws for itself, so that some hear more than others, and
    a round may move the mean of all peers. In EL-Oracle (`oracle`) each also hears as many as it sends to: a random
    regular digraph, here a circulant one with random offsets whose nodes are numbered at random.
    """

    partners: Annotated[int, Field(ge=1)]
    """s, how many others each sends to."""
    oracle: bool = False
    """Each also hears as many."""

    def __post_init__(self) -> None:
        if self.partners >= self.clients:
            raise ScenarioError(f"mixing: epidemic: {self.clients} clients cannot send to {self.partners} others each")

    @property
    def doubly(self) -> bool:
        """Where as many are heard as are sent to."""
        return self.oracle

    def rows(self, round: int) -> Sequence[Row]:
        """Senders draw in the order of their numbers."""
        rng = stream(self.seed, "mixing", "epidemic", round)
        heard = self._regular(rng) if self.oracle else self._sent(rng)
        return [alike(peer, senders) for peer, senders in enumerate(heard)]

    def _sent(self, rng: np.random.Generator) -> Sequence[Sequence[int]]:
        """Each peer's senders in EL-Local."""
        heard: list[list[int]] = [[] for _ in range(self.clients)]
        for sender in range(self.clients):
            for peer in some_others(rng, sender, self.clients, self.partners):
                heard[peer].append(sender)
        return heard

    def _regular(self, rng: np.random.Generator) -> Sequence[Sequence[int]]:
        """Each peer's senders in EL-Oracle."""
        place = rng.permutation(self.clients)
        at = np.argsort(place)
        offsets = 1 + rng.choice(self.clients - 1, self.partners, replace=False)
        return at[(place[:, None] + offsets) % self.clients].tolist()


def some_others(rng: np.random.Generator, peer: int, clients: int, count: int) -> list[int]:
    """So many of all clients but this one, or all of them; all equally likely."""
    drawn = sample(rng, np.arange(clients - 1), count)
    return (drawn + (drawn >= peer)).tolist()


def sample(rng: np.random.Generator, among: np.ndarray, count: int) -> np.ndarray:
    """So many of them, or all of them, without replacement; all equally likely."""
    return rng.choice(among, min(count, len(among)), replace=False)
