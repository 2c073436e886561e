"""Randomness is addressed, never drawn in turn: a name gives a stream, whoever asks and whenever."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np


def key(seed: int, *name: object) -> int:
    """The 128-bit number that stands for this name under this seed.

    >>> key(1, "batches", 3) == key(1, "batches", 3) != key(1, "batches", 4)
    True
    """
    return int.from_bytes(blake2b(repr((seed, *name)).encode(), digest_size=16).digest(), "little")


def stream(seed: int, *name: object) -> np.random.Generator:
    """The random stream that belongs to this name under this seed.

    >>> stream(1, "batches", 3).integers(10, size=4).tolist()
    [2, 0, 1, 9]
    """
    return np.random.default_rng(key(seed, *name))


def chance(seed: int, *name: object) -> float:
    """One number, uniform in [0, 1), at this address; far cheaper than a stream.

    >>> 0 <= chance(1, "fate", 17, 4) < 1
    True
    """
    digest = blake2b(repr((seed, *name)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
