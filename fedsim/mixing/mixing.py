"""What a mixing is: round by round, whom each peer hears and with which weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Row = Mapping[int, float]
"""Whom one peer hears, itself included, in rising order, and with which weight; the weights sum to 1."""


@dataclass(frozen=True, kw_only=True)
class Mixing(ABC):
    """The matrices W(0), W(1), ... of a gossip: after round t peer i holds the sum of W(t)_ij times what peer j held.

    All randomness is addressed: a round's matrix is the same whoever asks for it, and whenever.
    """

    clients: int

    @abstractmethod
    def rows(self, round: int) -> Sequence[Row]:
        """Row i of W(t) is peer i's. Made anew for each call where it is drawn: ask once a round."""

    @property
    @abstractmethod
    def doubly(self) -> bool:
        """Whether columns sum to 1 too, in every round: then mixing keeps the mean of all peers."""


def alike(peer: int, others: Iterable[int]) -> Row:
    """A peer and all the others that it hears count alike.

    >>> alike(1, [3, 0])
    {0: 0.3333333333333333, 1: 0.3333333333333333, 3: 0.3333333333333333}
    """
    heard = sorted({peer, *others})
    return dict.fromkeys(heard, 1 / len(heard))


def matrix(rows: Sequence[Row]) -> np.ndarray:
    """W as an array, (m, m).

    >>> matrix([{0: 0.5, 1: 0.5}, {1: 1.0}])
    array([[0.5, 0.5],
           [0. , 1. ]])
    """
    dense = np.zeros((len(rows), len(rows)))
    for peer, row in enumerate(rows):
        dense[peer, list(row)] = list(row.values())
    return dense
