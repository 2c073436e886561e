"""Clients that lie, and from when on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor

import torch

from fedsim.attacks.lies import Lie
from fedsim.rng import stream
from fedsim.wire.codec import generator
from fedsim.work import LocalResult, Update


def drawn(clients: int, share: float, seed: int) -> frozenset[int]:
    """Who lies: so many of all clients, rounded down, drawn by the seed.

    >>> len(drawn(10, 0.25, seed=1)), len(drawn(10, 0.0, seed=1))
    (2, 0)
    """
    some = stream(seed, "liars").permutation(clients)[: floor(share * clients)]
    return frozenset(some.tolist())


@dataclass(frozen=True)
class Liars:
    """Changes what some clients' updates say when the server takes a step; all honest ones of it are known to them."""

    who: frozenset[int]
    lie: Lie
    since: int
    """The server version from which on they lie: until then they are as all others."""
    seed: int

    def spoiled(self, updates: Sequence[Update], version: int) -> list[Update]:
        """The same updates, but for what the liars' say."""
        honest = [update.delta.double() for update in updates if update.client not in self.who]
        liars = len(updates) - len(honest)
        if version < self.since or not honest or not liars or not honest[0].numel():
            return list(updates)
        known = torch.stack(honest)
        return [self._told(update, known, liars) if update.client in self.who else update for update in updates]

    def _told(self, update: Update, honest: torch.Tensor, liars: int) -> Update:
        draw = generator(self.seed, "lie", update.client, update.version)
        lie = self.lie.told(update.delta.double(), honest, liars, draw).to(update.delta.dtype)
        numbers = update.numbers.result()
        return replace(update, numbers=LocalResult(lie, numbers.loss, numbers.square_loss, extra=numbers.extra))
