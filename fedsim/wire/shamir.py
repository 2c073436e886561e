"""Shamir's secret sharing: How to Share a Secret (Communications of the ACM, 1979)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

FIELD = 2**521 - 1
"""A Mersenne prime: shares are integers modulo it."""

SHARE = 66
"""Bytes of a share."""


def share(secret: int, threshold: int, points: Sequence[int], rng: np.random.Generator) -> dict[int, int]:
    """The shares of a secret by their points: values of a random polynomial of degree `threshold` - 1.

    Raises:
        ValueError: the secret is not in 0 ... FIELD - 1, the threshold not in 2 ... points, or the points are not
            different from 0 and from each other.
    """
    if not 0 <= secret < FIELD:
        raise ValueError("a secret is a number from 0 to 2^521 - 2")
    if not 2 <= threshold <= len(points):
        raise ValueError(f"of {len(points)} shares 2 to {len(points)} may be needed, not {threshold}")
    if len({0, *(point % FIELD for point in points)}) <= len(points):
        raise ValueError(f"the points of shares differ from 0 and from each other, and these do not: {points}")
    polynomial = [secret, *(element(rng) for _ in range(threshold - 1))]
    return {point: value(polynomial, point) for point in points}


def element(rng: np.random.Generator) -> int:
    """One of the field, uniform but for 2^-521."""
    return (int.from_bytes(rng.bytes(SHARE)) >> (8 * SHARE - 521)) % FIELD


def value(polynomial: Sequence[int], point: int) -> int:
    """Of a polynomial, its coefficients from the constant one upwards, by Horner's rule.

    >>> value([5, 0, 2], 3)
    23
    """
    total = 0
    for coefficient in reversed(polynomial):
        total = (total * point + coefficient) % FIELD
    return total


def reconstruct(shares: Mapping[int, int]) -> int:
    """The secret: the value at 0 of the polynomial of least degree through these shares, by their points.

    With fewer shares than the threshold it is some other number.

    >>> reconstruct({1: 7, 2: 9})
    5
    """
    return sum(weight * shares[point] for point, weight in weights(tuple(shares)).items()) % FIELD


@lru_cache(maxsize=8)
def weights(points: tuple[int, ...]) -> dict[int, int]:
    """Lagrange's: how much the value at each point counts at 0."""
    return {point: weight(point, [other for other in points if other != point]) for point in points}


def weight(point: int, others: Sequence[int]) -> int:
    """The value at 0 of the polynomial that is 1 at the point and 0 at the others."""
    above, below = 1, 1
    for other in others:
        above, below = above * other % FIELD, below * (other - point) % FIELD
    return above * pow(below, -1, FIELD) % FIELD
