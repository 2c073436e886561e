"""Partitions with replacement: each client has a mix of classes, and draws its examples from the whole set by it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedsim.data.dataset import Count, Dataset
from fedsim.data.partitions import Parts, apportion, check_clients, classes
from fedsim.rng import stream


@dataclass(frozen=True)
class WithReplacement:
    """Label skew with equal sizes: each client draws a mix of classes, then examples with replacement from the classes.

    FedFix (Fraboni et al., JMLR 2023): the mix is Dirichlet(alpha); clients overlap and may hold an example twice;
    alpha 0 gives client i the class i mod classes alone. A client's class counts are its mix times its size, to the
    nearest whole examples. As there, each client draws test examples of its own with the same mix: the test set's size
    divided by the number of clients, but one at least, and none if the test set lacks all of its classes.
    """

    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    examples: Count | None = None
    """How many examples each client draws; none given: the training set's size divided by the number of clients."""
    cover: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self.alpha)

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """Classes without training examples take no part."""
        check_clients(dataset, clients, smallest=0 if self.examples else 1)
        labels, test_labels = (classes(y, "with_replacement") for y in (dataset.y, dataset.y_test))
        present = np.unique(labels)
        pools, test_pools = ([np.flatnonzero(y == label) for label in present] for y in (labels, test_labels))
        size, test_size = self.examples or len(labels) // clients, max(1, len(test_labels) // clients)
        parts, tests = [], []
        for client in range(clients):
            rng = stream(seed, "partition", client)
            mix = _mix(self.alpha, client, len(pools), rng)
            parts.append(_apportioned(pools, mix, size, rng))
            tests.append(_apportioned(test_pools, mix, test_size, stream(seed, "test partition", client)))
        return Parts(parts, test=Parts(tests))


@dataclass(frozen=True)
class Resampled:
    """Label skew without end: each client draws a mix of classes once, and new examples by it for each training.

    The single-merge paper (Zhu et al., 2025), "resample" in its code: the mix is Dirichlet(alpha); before each local
    training a client draws `size` examples with replacement, each of a class by the mix, then any of that class in the
    whole training set. Much kinder than parts that stay, as nobody runs out of examples. The mixes are those of
    `with_replacement`; everybody is tested on the whole test set.
    """

    alpha: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Concentration of the mixes; 0 gives client i the class i mod classes alone."""
    size: Count = 4096
    """How many examples each draw has; the paper's code has 4,096 with ResNet-18."""
    cover: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self.alpha)

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """Classes without training examples take no part."""
        check_clients(dataset, clients, smallest=0)
        labels = classes(dataset.y, "resampled")
        pools = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        streams = (stream(seed, "partition", client) for client in range(clients))
        mixes = [_mix(self.alpha, client, len(pools), rng) for client, rng in enumerate(streams)]
        redraw = partial(self._draw, seed, pools, mixes)
        return Parts([redraw(client, 0) for client in range(clients)], redraw=redraw)

    def _draw(
        self, seed: int, pools: list[np.ndarray], mixes: list[np.ndarray], client: int, ordinal: int
    ) -> np.ndarray:
        rng = stream(seed, "partition", client, ordinal)
        return _chosen(pools, rng.multinomial(self.size, mixes[client]), rng)


def _check(alpha: float) -> None:
    if not 0 <= alpha < inf:
        raise ValueError(f"alpha must be finite and not negative, not {alpha}")


def _mix(alpha: float, client: int, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.dirichlet(np.full(count, alpha)) if alpha else np.eye(count)[client % count]


def _apportioned(pools: list[np.ndarray], mix: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """So many members of the pools in the proportions of the mix; without those pools that are empty."""
    shares = mix * [len(pool) > 0 for pool in pools]
    counts = apportion(shares, size) if shares.any() else np.zeros(len(pools), dtype=np.int64)
    return _chosen(pools, counts, rng)


def _chosen(pools: list[np.ndarray], counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """So many of each pool, with replacement."""
    return np.concatenate([rng.choice(pool, count) for pool, count in zip(pools, counts, strict=True)])
