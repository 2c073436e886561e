"""What masking rests on beside shares: Diffie-Hellman key agreement, masks from seeds, and sealed messages.

Diffie and Hellman, New Directions in Cryptography (IEEE Transactions on Information Theory, 1976). Exact and complete,
and yet for simulations, not for real secrets: Python integers are not in constant time, and masks come from Philox
(Salmon et al., SC 2011), a counter-mode generator that stands for a cryptographic one.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256, shake_256

import numpy as np

# RFC 3526, group 14: the integers modulo a safe prime of 2048 bits, with generator 2.
PRIME = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B"
    "302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE6"
    "49286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D"
    "670C354E4ABC9804F1746C08CA18217C32905E462E36CE3BE39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718"
    "3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    16,
)
ID, KEY, SECRET, TAG = 4, 256, 32, 16
"""Bytes of a client's number, a public key, a secret key or seed, and the tag of what is sealed."""


@dataclass(frozen=True)
class PublicKey:
    """2 to the power of a secret, modulo PRIME: what one tells others for a Diffie-Hellman key agreement."""

    number: int
    agreed: dict[int, int] = field(default_factory=dict, compare=False, repr=False)
    """What its owner has agreed with the owners of others: in one process, the second end need not compute it again."""

    @cached_property
    def products(self) -> list[int]:
        """Of the powers with exponents 1, 2^32, ..., 2^224, for every subset of them: 256 numbers."""
        products, base = [1], self.number
        for _ in range(8):
            products += [product * base % PRIME for product in products]
            base = pow(base, 2**32, PRIME)
        return products

    def power(self, exponent: int) -> int:
        """With an exponent of 256 bits; five times as fast as `pow` for many exponents.

        Lim and Lee, More Flexible Exponentiation with Precomputation (CRYPTO 1994): the exponent's bits are 8 rows of
        32, and a column at a time selects one of the `products`.
        """
        bits = np.unpackbits(np.frombuffer(exponent.to_bytes(SECRET), np.uint8)).reshape(8, 32)
        result = 1
        for column in np.packbits(bits, axis=0)[0].tolist():
            result = result * result % PRIME * self.products[column] % PRIME
        return result

    def to_bytes(self) -> bytes:
        """KEY bytes."""
        return self.number.to_bytes(KEY)


GENERATOR = PublicKey(2)


@dataclass(frozen=True)
class KeyPair:
    """A secret exponent of 256 bits and what belongs to it."""

    secret: int

    @cached_property
    def public(self) -> PublicKey:
        """The public key."""
        return PublicKey(GENERATOR.power(self.secret))

    def agree(self, other: PublicKey) -> int:
        """The secret that the owners of both keys, and nobody else, can compute."""
        own = self.public
        if own.number not in other.agreed:
            other.agreed[own.number] = own.agreed[other.number] = other.power(self.secret)
        return other.agreed[own.number]

    def seed(self, other: PublicKey, *clients: int) -> bytes:
        """32 bytes from what is agreed and both clients, in an order on which they agree too."""
        return sha256(self.agree(other).to_bytes(KEY) + packed(clients)).digest()

    def pairwise(self, client: int, other: int, key: PublicKey, size: int, word: int) -> np.ndarray:
        """What its owner adds to a vector because of another client, which adds the negative: see `expand`."""
        mask = expand(self.seed(key, *sorted((client, other))), size, word)
        return mask if client < other else -mask


def packed(clients: Iterable[int]) -> bytes:
    """Their numbers, ID bytes each."""
    return b"".join(client.to_bytes(ID) for client in clients)


def seal(key: bytes, content: bytes) -> bytes:
    """Encrypted and authenticated, TAG bytes longer; a key is for one content only."""
    hidden = xor(content, shake_256(key).digest(len(content)))
    return hidden + hmac.digest(key, hidden, "sha256")[:TAG]


def opened(key: bytes, sealed: bytes) -> bytes:
    """What was sealed.

    Raises:
        ValueError: it was not, with this key.
    """
    hidden, tag = sealed[:-TAG], sealed[-TAG:]
    if not hmac.compare_digest(tag, hmac.digest(key, hidden, "sha256")[:TAG]):
        raise ValueError("this is not what was sealed")
    return xor(hidden, shake_256(key).digest(len(hidden)))


def xor(one: bytes, other: bytes) -> bytes:
    """Bit by bit."""
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(len(one))


def expand(seed: bytes, size: int, word: int) -> np.ndarray:
    """The mask of a seed, of which 128 bits count: unsigned integers (size,) of `word` bytes."""
    drawn = np.random.Philox(key=int.from_bytes(seed[:16])).random_raw(-(-size * word // 8))
    return drawn.astype("<u8").view(f"<u{word}")[:size]


def modulo(vector: np.ndarray, word: int) -> np.ndarray:
    """uint64 modulo 2^(8 word)."""
    return vector & np.uint64(2 ** (8 * word) - 1)
