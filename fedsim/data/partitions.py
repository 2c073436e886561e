"""Partitions: which examples each client holds, for training and perhaps for testing, and under which labels.

All draws are addressed by the seed, so a partition depends on the dataset, the number of clients and the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Annotated, ClassVar, Protocol, runtime_checkable

import numpy as np
from pydantic import Field
from torch import Tensor

from fedsim.data.dataset import Count, Dataset
from fedsim.errors import ScenarioError
from fedsim.rng import stream
from fedsim.units import Probability


@dataclass(frozen=True, eq=False)
class Parts:
    """The clients' shares of a set of examples."""

    indices: list[np.ndarray]
    """For each client the positions of its examples in the set, int64."""
    labels: list[np.ndarray] | None = None
    """For each client the labels that it sees, in the order of `indices`; None: the dataset's own."""
    test: Parts | None = None
    """Beside shares of a training set: each client's own shares of the test set; None: nobody has any."""
    redraw: Callable[[int, int], np.ndarray] | None = None
    """Of (client, ordinal), what a client holds at its n-th training, as many as in `indices`, which is the draw of
    ordinal 0; None: always the same."""
    clean: list[np.ndarray] | None = None
    """For each client the positions of further examples, whose labels are known to be right; None: nobody has any."""

    def __post_init__(self) -> None:
        if self.labels is not None and [len(part) for part in self.labels] != self.sizes:
            raise ScenarioError("a part needs as many labels as examples")
        if self.labels is not None and self.redraw is not None:
            raise ScenarioError("parts that are drawn anew cannot have labels of their own")

    @property
    def sizes(self) -> list[int]:
        """How many examples each client holds."""
        return [len(part) for part in self.indices]

    def held(self, client: int, ordinal: int) -> np.ndarray:
        """The positions of the examples that a client holds at its n-th training."""
        return self.indices[client] if self.redraw is None else self.redraw(client, ordinal)


@runtime_checkable
class Partition(Protocol):
    """A rule that shares out a training set."""

    cover: ClassVar[bool]
    """Whether every training example belongs to exactly one client."""

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """One part for each client. Raises ScenarioError if there cannot be so many."""
        ...


def check_clients(dataset: Dataset, clients: int, smallest: int = 1) -> None:
    """Refuse numbers of clients that cannot all have `smallest` examples."""
    if clients < 1:
        raise ScenarioError(f"a partition needs at least 1 client, not {clients}")
    if clients * smallest > len(dataset):
        raise ScenarioError(f"{len(dataset)} training examples are too few for {clients} clients with {smallest} each")


def classes(labels: Tensor, partition: str) -> np.ndarray:
    """Labels (n,) as an array. Raises ScenarioError if they are points."""
    if labels.is_floating_point():
        raise ScenarioError(f"partition {partition} needs classes, but these labels are points: take iid or natural")
    return labels.numpy()


def dealt(count: int, clients: int, rng: np.random.Generator) -> Parts:
    """So many examples, shuffled and dealt out in turn."""
    return parts_of(rng.permutation(np.arange(count) % clients), clients)


def parts_of(owner: np.ndarray, clients: int) -> Parts:
    """The disjoint cover in which example i belongs to client owner[i].

    >>> parts_of(np.array([1, 0, 1]), clients=2).indices
    [array([1]), array([0, 2])]
    """
    ends = np.cumsum(np.bincount(owner, minlength=clients))
    return Parts(np.split(np.argsort(owner, kind="stable"), ends[:-1]))


def apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that sum to `total`, in proportion to `shares`: rounded down, the rest to the largest remainders.

    >>> apportion(np.array([0.5, 0.26, 0.24]), 10)
    array([5, 3, 2])
    """
    exact = shares / shares.sum() * total
    counts = np.floor(exact).astype(np.int64)
    rest = total - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:rest]] += 1
    return counts


@dataclass(frozen=True)
class Iid:
    """Everybody has a random sample of the same size, give or take one example."""

    cover: ClassVar[bool] = True

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """Deal the shuffled examples out in turn."""
        check_clients(dataset, clients)
        return dealt(len(dataset), clients, stream(seed, "partition"))


@dataclass(frozen=True)
class Dirichlet:
    """Label skew: each class is divided among the clients in proportions drawn from a symmetric Dirichlet law.

    Of the two common definitions this is the one of Yurochkin et al. (ICML 2019), proportions of each class over
    clients, so parts differ in size too; the other (Hsu et al., 2019) draws a mix of classes for each client.
    flwr-datasets' DirichletPartitioner has the same law. It redraws everything while a part is too small (10 by
    default) and gives up after ten redraws; here random examples move from the largest part to those too small,
    so any alpha ends, and only the parts concerned leave the law.
    """

    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Concentration: small is skewed, large is even."""
    smallest: Annotated[int, Field(ge=0)] = 1
    """No part is smaller than this many examples; 0 allows empty parts."""
    cover: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.alpha < inf:
            raise ValueError(f"alpha must be positive and finite, not {self.alpha}")

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """Divide class by class, then move examples to parts that are too small."""
        check_clients(dataset, clients, self.smallest)
        rng, labels = stream(seed, "partition"), classes(dataset.y, "dirichlet")
        owner = np.empty(len(labels), dtype=np.int64)
        for label in range(dataset.outputs):
            members = rng.permutation(np.flatnonzero(labels == label))
            shares = rng.dirichlet(np.full(clients, self.alpha))
            owner[members] = np.repeat(np.arange(clients), apportion(shares, len(members)))
        _top_up(owner, clients, self.smallest, rng)
        return parts_of(owner, clients)


def _top_up(owner: np.ndarray, clients: int, smallest: int, rng: np.random.Generator) -> None:
    sizes = np.bincount(owner, minlength=clients)
    for poor in np.flatnonzero(sizes < smallest):
        while sizes[poor] < smallest:
            rich = sizes.argmax()
            owner[rng.choice(np.flatnonzero(owner == rich))] = poor
            sizes[rich] -= 1
            sizes[poor] += 1


@dataclass(frozen=True)
class Shards:
    """Label skew: the examples, sorted by label, are cut into equal shards, and each client has a few of them.

    McMahan et al. (AISTATS 2017), section 3, with 2 shards of 300 examples for each of 100 clients.
    """

    per_client: Count = 2
    cover: ClassVar[bool] = True

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """Sort, cut and deal; shards differ in size by at most one example."""
        check_clients(dataset, clients, self.per_client)
        rng, shards = stream(seed, "partition"), clients * self.per_client
        order = rng.permutation(len(dataset))
        order = order[np.argsort(classes(dataset.y, "shards")[order], kind="stable")]
        owner = np.empty(len(dataset), dtype=np.int64)
        owner[order] = rng.permutation(shards)[np.arange(len(dataset)) * shards // len(dataset)] // self.per_client
        return parts_of(owner, clients)


@dataclass(frozen=True)
class Natural:
    """Everybody has what is theirs by nature: client i is the i-th group (hospital, role).

    With fewer clients than groups, each further group joins the client that holds the fewest examples, so nothing is
    left out. More clients than groups is an error: a group is not divided.
    """

    cover: ClassVar[bool] = True

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """Follow the dataset's groups."""
        check_clients(dataset, clients)
        if dataset.groups is None:
            raise ScenarioError("partition natural needs groups, such as shakespeare's roles; this dataset has none")
        group_sizes = np.bincount(dataset.groups)
        if clients > len(group_sizes):
            raise ScenarioError(f"partition natural: {clients} clients cannot share {len(group_sizes)} groups")
        client_of, sizes = np.empty(len(group_sizes), dtype=np.int64), np.zeros(clients, dtype=np.int64)
        for group, size in enumerate(group_sizes):
            client_of[group] = sizes.argmin()
            sizes[client_of[group]] += size
        return parts_of(client_of[dataset.groups], clients)


Pair = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


@dataclass(frozen=True)
class LabelSwap:
    """Clients who disagree: an IID split, then a fraction of the examples of two classes get each other's label.

    Even clients swap one pair of classes, odd clients another. FedStale (Rodio and Neglia, 2024), whose fraction is
    the data heterogeneity h; its pairs are 0-1 and 8-9 on MNIST, 3-5 and 2-6 on CIFAR-10. As there, each client has
    its own share of the test set too, with as large a fraction of its labels swapped.
    """

    fraction: Probability
    even: Pair = (0, 1)
    odd: Pair = (8, 9)
    cover: ClassVar[bool] = True

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """Split as Iid does under the same seed, then swap."""
        labels, test_labels = (classes(y, "label_swap") for y in (dataset.y, dataset.y_test))
        for pair in (self.even, self.odd):
            if max(pair) >= dataset.outputs or pair[0] == pair[1]:
                raise ScenarioError(f"label_swap needs two different classes below {dataset.outputs}, not {pair}")
        indices = Iid().split(dataset, clients, seed).indices
        tests = dealt(len(test_labels), clients, stream(seed, "test partition")).indices
        return Parts(
            indices,
            self._seen(labels, indices, seed, "label swap"),
            Parts(tests, self._seen(test_labels, tests, seed, "test label swap")),
        )

    def _seen(self, labels: np.ndarray, indices: list[np.ndarray], seed: int, name: str) -> list[np.ndarray]:
        return [self._swapped(labels[part], client, stream(seed, name, client)) for client, part in enumerate(indices)]

    def _swapped(self, labels: np.ndarray, client: int, rng: np.random.Generator) -> np.ndarray:
        swapped = labels.copy()
        one, other = self.odd if client % 2 else self.even
        for old, new in ((one, other), (other, one)):
            members = np.flatnonzero(labels == old)
            swapped[rng.permutation(members)[: round(self.fraction * len(members))]] = new
        return swapped
