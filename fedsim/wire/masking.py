"""Secure aggregation: a server learns the sum of its clients' vectors and no single one, even if some drop out.

Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning (CCS 2017), against a server that
follows the protocol and is curious. In four steps those clients that are still there advertise keys, share keys, send
masked inputs, and unmask the sum. Nothing here knows of time or sockets: messages are objects, and `to_bytes` is what
would be sent. For simulations, not for real secrets: see `fedsim.wire.agreement`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from fedsim.rng import stream
from fedsim.wire.agreement import ID, KEY, SECRET, TAG, KeyPair, PublicKey, expand, modulo, opened, packed, seal
from fedsim.wire.shamir import SHARE, reconstruct, share


class TooFewClients(ValueError):
    """Fewer clients than the threshold are left, so that there is no sum."""


class BothShares(ValueError):
    """A client was asked for both shares of another, of the key and of the seed, which would unmask its vector."""


def enough(clients: Sized, threshold: int) -> None:
    """Raises TooFewClients unless there are so many."""
    if len(clients) < threshold:
        raise TooFewClients(f"secure aggregation needs {threshold} clients, and there are {len(clients)}")


@dataclass(frozen=True)
class AdvertisedKeys:
    """Step 1, up: a client's public keys, for what it seals and for its masks."""

    client: int
    channel: PublicKey
    mask: PublicKey

    def to_bytes(self) -> bytes:
        """As sent."""
        return packed([self.client]) + self.channel.to_bytes() + self.mask.to_bytes()


@dataclass(frozen=True)
class Roster:
    """Step 1, down: the keys of all who advertised some, in the order of their numbers."""

    keys: tuple[AdvertisedKeys, ...]

    def to_bytes(self) -> bytes:
        """As sent."""
        return b"".join(keys.to_bytes() for keys in self.keys)


@dataclass(frozen=True)
class Parcels:
    """Step 2, up and down: sealed shares from a client by whom they are for, or for a client by whom they are from."""

    client: int
    sealed: Mapping[int, bytes]

    def to_bytes(self) -> bytes:
        """As sent."""
        return packed([self.client]) + b"".join(packed([peer]) + sealed for peer, sealed in self.sealed.items())


@dataclass(frozen=True)
class MaskedInput:
    """Step 3, up: a client's masked vector, uint64 (d,), of which `word` bytes a number count."""

    client: int
    vector: np.ndarray
    word: int

    def to_bytes(self) -> bytes:
        """As sent."""
        return packed([self.client]) + self.vector.astype(f"<u{self.word}").tobytes()


@dataclass(frozen=True)
class Survivors:
    """Step 3, down: who sent masked inputs."""

    clients: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """As sent."""
        return packed(self.clients)


@dataclass(frozen=True)
class Unmasking:
    """Step 4, up: one share of each client that shared: of the seed if it sent its input, else of the mask key."""

    client: int
    seeds: Mapping[int, bytes]
    keys: Mapping[int, bytes]

    def to_bytes(self) -> bytes:
        """As sent."""
        shares = [*self.seeds.items(), *self.keys.items()]
        return packed([self.client]) + b"".join(packed([client]) + share for client, share in shares)


M = TypeVar("M", AdvertisedKeys, Parcels, MaskedInput, Unmasking)


@dataclass
class Client:
    """A client in one round; its methods are the steps. Its number is `id`, below 2^32; `word` is that of `FixedPoint`.

    Every round has its own seed: masks that are used twice cancel.
    """

    id: int
    threshold: int
    word: int
    seed: int
    channel: KeyPair = field(init=False)
    mask: KeyPair = field(init=False)
    own: int = field(init=False)
    """The seed of its own mask."""
    keys: dict[int, AdvertisedKeys] = field(default_factory=dict, init=False)
    shares: dict[int, bytes] = field(default_factory=dict, init=False)
    """Those of its mask key and its own seed, by whom they are for."""
    parcels: Parcels = field(init=False)
    answered: frozenset[int] = field(default=frozenset(), init=False)
    """The survivors for whom it has given shares."""

    def __post_init__(self) -> None:
        names = "channel key", "mask key", "own seed"
        channel, mask, self.own = (int.from_bytes(stream(self.seed, name, self.id).bytes(SECRET)) for name in names)
        self.channel, self.mask = KeyPair(channel), KeyPair(mask)

    def advertise_keys(self) -> AdvertisedKeys:
        """Step 1."""
        return AdvertisedKeys(self.id, self.channel.public, self.mask.public)

    def share_keys(self, roster: Roster) -> Parcels:
        """Step 2: shares of its mask key and its own seed for everybody; raises ValueError for a threshold below 2."""
        enough(roster.keys, self.threshold)
        self.keys = {keys.client: keys for keys in roster.keys}
        rng, points = stream(self.seed, "shares", self.id), [client + 1 for client in self.keys]
        both = [share(secret, self.threshold, points, rng) for secret in (self.mask.secret, self.own)]
        self.shares = {client: b"".join(shares[client + 1].to_bytes(SHARE) for shares in both) for client in self.keys}
        others = self.keys.keys() - {self.id}
        return Parcels(self.id, {to: seal(self.key(self.id, to), self.shares[to]) for to in sorted(others)})

    def key(self, sender: int, receiver: int) -> bytes:
        """To seal what one of the two, itself and another, sends the other."""
        other = receiver if sender == self.id else sender
        return self.channel.seed(self.keys[other].channel, sender, receiver)

    def masked_input(self, parcels: Parcels, vector: np.ndarray) -> MaskedInput:
        """Step 3: its encoded vector, uint64 (d,), with its own mask and those of all pairs."""
        enough([self.id, *parcels.sealed], self.threshold)
        if vector.dtype != np.uint64:
            raise ValueError(f"a vector to be masked is uint64, see FixedPoint, and not {vector.dtype}")
        self.parcels = parcels
        total = vector + expand(self.own.to_bytes(SECRET), len(vector), self.word)
        for other in parcels.sealed:
            total += self.mask.pairwise(self.id, other, self.keys[other].mask, len(vector), self.word)
        return MaskedInput(self.id, modulo(total, self.word), self.word)

    def unmask(self, survivors: Survivors) -> Unmasking:
        """Step 4: its shares of the survivors' seeds and of the others' mask keys.

        Raises:
            BothShares: it has been asked before, for other survivors.
            ValueError: it is no survivor itself, there are unknown ones, or shares are not what was sealed.
        """
        asked, known = frozenset(survivors.clients), {self.id, *self.parcels.sealed}
        enough(asked, self.threshold)
        if self.id not in asked or not asked <= known:
            raise ValueError(f"client {self.id} and others of {sorted(known)} survive, not {sorted(asked)}")
        if self.answered and self.answered != asked:
            raise BothShares(f"client {self.id} gives one share of each of {sorted(self.answered ^ asked)}, not both")
        self.answered = asked
        shares = {peer: opened(self.key(peer, self.id), sealed) for peer, sealed in self.parcels.sealed.items()}
        shares[self.id] = self.shares[self.id]
        keys = {client: shares[client][:SHARE] for client in sorted(known - asked)}
        return Unmasking(self.id, {client: shares[client][SHARE:] for client in sorted(asked)}, keys)


@dataclass
class Server:
    """The server in one round; its methods end the steps, whose messages may come in any order."""

    threshold: int
    word: int
    keys: dict[int, AdvertisedKeys] = field(default_factory=dict, init=False)
    shared: list[int] = field(default_factory=list, init=False)
    inputs: dict[int, np.ndarray] = field(default_factory=dict, init=False)

    def ordered(self, messages: Sequence[M]) -> list[M]:
        """By their clients; raises TooFewClients below the threshold."""
        enough(messages, self.threshold)
        return sorted(messages, key=lambda message: message.client)

    def roster(self, keys: Sequence[AdvertisedKeys]) -> Roster:
        """Ends step 1: for all who advertised keys."""
        self.keys = {each.client: each for each in self.ordered(keys)}
        return Roster(tuple(self.keys.values()))

    def forward(self, parcels: Sequence[Parcels]) -> dict[int, Parcels]:
        """Ends step 2: for each who shared."""
        sealed = {each.client: each.sealed for each in self.ordered(parcels)}
        self.shared = list(sealed)
        return {to: Parcels(to, {by: sealed[by][to] for by in sealed if by != to}) for to in sealed}

    def survivors(self, inputs: Sequence[MaskedInput]) -> Survivors:
        """Ends step 3: for all who sent their inputs."""
        self.inputs = {each.client: each.vector for each in self.ordered(inputs)}
        return Survivors(tuple(self.inputs))

    def total(self, answers: Sequence[Unmasking]) -> np.ndarray:
        """Ends step 4: the sum of the survivors' encoded vectors, uint64 (d,), modulo 2^(8 word)."""
        answers = self.ordered(answers)[: self.threshold]
        total = sum(self.inputs.values(), start=np.zeros((), np.uint64))
        for client in self.inputs:
            seed = reconstruct({each.client + 1: int.from_bytes(each.seeds[client]) for each in answers})
            total -= expand(seed.to_bytes(SECRET), len(total), self.word)
        for client in set(self.shared) - set(self.inputs):
            keys = KeyPair(reconstruct({each.client + 1: int.from_bytes(each.keys[client]) for each in answers}))
            for other in self.inputs:
                total += keys.pairwise(client, other, self.keys[other].mask, len(total), self.word)
        return modulo(total, self.word)


class Exchange(NamedTuple):
    """Bytes of one client in a step: what it sends, and what it hears at the end."""

    up: int
    down: int


def traffic(vector: int, advertised: int, shared: int, sent: int) -> dict[str, Exchange]:
    """By the names of `Client`'s steps; of a masked vector of so many bytes, and so many clients in steps 1 to 3."""
    keys, parcel = ID + 2 * KEY, ID + 2 * SHARE + TAG
    return {
        "advertise_keys": Exchange(keys, advertised * keys),
        "share_keys": Exchange(ID + (advertised - 1) * parcel, ID + (shared - 1) * parcel),
        "masked_input": Exchange(ID + vector, sent * ID),
        "unmask": Exchange(ID + shared * (ID + SHARE), 0),
    }
