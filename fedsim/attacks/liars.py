"""Clients that attack: who, from when on, and what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import floor
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fedsim.attacks.lies import Known, Lie
from fedsim.attacks.poisons import Poison
from fedsim.rng import stream
from fedsim.wire.codec import generator
from fedsim.work import LocalResult, LocalTask, Update


class Work(Protocol):
    """A task or an update: it is a client's, and began at a version."""

    @property
    def client(self) -> int:
        """Whose."""
        ...

    @property
    def version(self) -> int:
        """What it starts from."""
        ...


def drawn(clients: int, share: float, seed: int) -> frozenset[int]:
    """Who attacks: so many of all clients, rounded down, drawn by the seed.

    >>> len(drawn(10, 0.25, seed=1)), len(drawn(10, 0.0, seed=1))
    (2, 0)
    """
    some = stream(seed, "liars").permutation(clients)[: floor(share * clients)]
    return frozenset(some.tolist())


@dataclass(frozen=True)
class Liars:
    """Who attacks, with all work that starts from version `since` or a later one; before, they are as all others."""

    who: frozenset[int]
    since: int = 0

    def did(self, work: Work) -> bool:
        """Whether this is a liar's."""
        return work.client in self.who and work.version >= self.since


@dataclass(frozen=True)
class Lying:
    """Changes what liars' updates say when the server takes a step; all honest ones of it are known to them."""

    liars: Liars
    lie: Lie
    seed: int

    def __call__(self, updates: Sequence[Update]) -> list[Update]:
        """The same updates, but for what the liars' say. Lies that hide among honest updates need one."""
        theirs = [update for update in updates if self.liars.did(update)]
        honest = [update.delta.double() for update in updates if not self.liars.did(update)]
        if not theirs or not (honest or self.lie.alone) or not theirs[0].delta.numel():
            return list(updates)
        own = torch.stack([update.delta.double() for update in theirs])
        known = Known(torch.stack(honest) if honest else own[:0], own)
        return [self._told(update, known) if self.liars.did(update) else update for update in updates]

    def _told(self, update: Update, known: Known) -> Update:
        draw = generator(self.seed, "lie", update.client, update.version)
        lie = self.lie.told(update.delta.double(), known, update.version, draw).to(update.delta.dtype)
        numbers = update.numbers.result()
        return replace(update, numbers=LocalResult(lie, numbers.loss, numbers.square_loss, extra=numbers.extra))


class Peer(Protocol):
    """As far as a lie needs it."""

    @property
    def name(self) -> int:
        """Which client it is."""
        ...

    @property
    def round(self) -> int:
        """Its own."""
        ...

    @property
    def params(self) -> Tensor:
        """The model that its round began with, (P,)."""
        ...


@dataclass(frozen=True)
class LyingPeers:
    """Changes what liars among peers say of their models; nobody's honest change is known to them."""

    liars: Liars
    lie: Lie
    seed: int

    def __call__(self, peer: Peer, model: Tensor) -> Tensor:
        """What it says of a model (P,): a lie about how far that is from where its round began."""
        if peer.name not in self.liars.who or peer.round < self.liars.since or not model.numel():
            return model
        own = (model - peer.params).double()
        draw = generator(self.seed, "lie", peer.name, peer.round)
        return peer.params + self.lie.told(own, Known(own[None][:0], own[None]), peer.round, draw).to(model.dtype)


@dataclass(frozen=True)
class Poisoning:
    """Changes what liars learn from."""

    liars: Liars
    poison: Poison

    def spoiled(self, x: Tensor, y: Tensor, tasks: Sequence[LocalTask]) -> tuple[Tensor, Tensor]:
        """Batches (K, B, *shape) and their labels (K, B) of the first K clients, those of liars changed."""
        places = [k for k, task in enumerate(tasks[: len(x)]) if self.liars.did(task)]
        if places:
            x, y = x.clone(), y.clone()
        for k in places:
            x[k], y[k] = self.poison.spoiled(x[k], y[k])
        return x, y


HALF = 0.5
"""Of an equal share: an update that counts for less is called refused."""


@dataclass
class Jury:
    """Counts how many honest updates are refused, and how many lies are heard."""

    liars: Liars
    tallies: dict[str, float]
    """Gets `false_positives` and `lies_heard`, each a share of all such updates so far."""
    seen: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    """Updates by whether they lie."""
    counted: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    changing: ClassVar[tuple[str, ...]] = ("seen", "counted")

    def __post_init__(self) -> None:
        self._tell()

    def __call__(self, updates: Sequence[Update], sound: Sequence[Update], shares: Tensor | None) -> None:
        """After a step; see `fedsim.aggregators.aggregator.Jury`."""
        for update in updates:
            self.seen[self.liars.did(update)] += 1
        for place, update in enumerate(sound):
            heard = shares is None or float(shares[place]) >= HALF / len(sound)
            self.counted[self.liars.did(update)] += heard
        self._tell()

    def _tell(self) -> None:
        self.tallies["false_positives"] = 1 - self.counted[False] / self.seen[False] if self.seen[False] else 0.0
        self.tallies["lies_heard"] = self.counted[True] / self.seen[True] if self.seen[True] else 0.0
