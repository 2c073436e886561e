"""Every partition keeps the laws of its table; each also does what its own definition says."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fedsim.data import (
    PARTITIONS,
    Dataset,
    Dirichlet,
    FlowerPartitioner,
    Iid,
    LabelSwap,
    Natural,
    Noisy,
    Partition,
    Resampled,
    Shards,
    WithReplacement,
)
from fedsim.errors import ScenarioError

EXAMPLES = [
    Iid(),
    Dirichlet(1e-3),
    Dirichlet(0.3),
    Dirichlet(1e3, smallest=3),
    Shards(),
    Shards(per_client=1),
    Natural(),
    LabelSwap(0.4),
    WithReplacement(0.3),
    WithReplacement(0, examples=7),
    Resampled(0.3, size=50),
    Noisy(0.3, clean=2),
]


def dataset(n: int, classes: int = 10, groups: int = 40, labels: np.ndarray | None = None) -> Dataset:
    """The i-th example is the number i."""
    y = torch.from_numpy(np.arange(n) % classes if labels is None else labels).long()
    x = torch.arange(n, dtype=torch.float32).unsqueeze(1)
    groups = min(groups, n)
    return Dataset(x, y, x, y, classes, np.arange(n) % groups, tuple(map(str, range(groups))))


def counts(data: Dataset, part: np.ndarray) -> np.ndarray:
    return np.bincount(data.y.numpy()[part], minlength=data.outputs)


def test_every_member_of_the_table_is_tried():
    elsewhere = {FlowerPartitioner}  # test_flower_partitioner.py, as it needs flwr-datasets
    assert {type(partition) for partition in EXAMPLES} == set(PARTITIONS.values()) - elsewhere
    assert all(isinstance(partition, Partition) for partition in EXAMPLES)


@pytest.mark.parametrize("partition", EXAMPLES, ids=repr)
@settings(max_examples=20, deadline=None)
@given(n=st.integers(120, 300), clients=st.integers(1, 40), seed=st.integers(0, 2**40))
def test_laws(partition, n, clients, seed):
    data = dataset(n)
    parts = partition.split(data, clients, seed)
    assert len(parts.indices) == clients
    assert min(parts.sizes) >= getattr(partition, "smallest", 1)
    assert all(part.dtype == np.int64 and 0 <= part.min() <= part.max() < n for part in parts.indices)
    if partition.cover:
        assert np.array_equal(np.sort(np.concatenate(parts.indices)), np.arange(n))
    again = partition.split(data, clients, seed)
    assert all(map(np.array_equal, parts.indices, again.indices))
    if parts.labels is not None and again.labels is not None:
        assert [len(labels) for labels in parts.labels] == parts.sizes
        assert all(map(np.array_equal, parts.labels, again.labels))


@settings(max_examples=40, deadline=None)
@given(
    exponent=st.floats(-3, 3),
    clients=st.integers(1, 60),
    smallest=st.integers(0, 2),
    labels=st.lists(st.integers(0, 9), min_size=120, max_size=150),
)
def test_dirichlet_covers_at_any_alpha_even_with_rare_and_absent_classes(exponent, clients, smallest, labels):
    data = dataset(len(labels), labels=np.array(labels))
    parts = Dirichlet(10.0**exponent, smallest).split(data, clients, seed=1)
    assert np.array_equal(np.sort(np.concatenate(parts.indices)), np.arange(len(labels)))
    assert min(parts.sizes) >= smallest


@pytest.mark.parametrize("partition", [e for e in EXAMPLES if not isinstance(e, Natural)], ids=repr)
def test_the_seed_matters(partition):
    data = dataset(300)
    one, other = (partition.split(data, 10, seed).indices for seed in (1, 2))
    assert not all(map(np.array_equal, one, other))


@pytest.mark.parametrize("partition", EXAMPLES, ids=repr)
def test_no_clients_is_an_error(partition):
    with pytest.raises(ScenarioError, match="at least 1 client"):
        partition.split(dataset(100), 0, seed=1)


@pytest.mark.parametrize("partition", [e for e in EXAMPLES if e.cover or e == WithReplacement(0.3)], ids=repr)
def test_more_clients_than_examples_is_an_error(partition):
    with pytest.raises(ScenarioError, match="too few"):
        partition.split(dataset(100), 101, seed=1)


def test_the_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    for partition in EXAMPLES:
        partition.split(dataset(200), 5, seed=1)
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]


@pytest.mark.parametrize("arguments", [{"alpha": 0}, {"alpha": -1}, {"alpha": "nan"}, {"alpha": "inf"}, {}])
def test_dirichlet_refuses_nonsense(arguments):
    with pytest.raises(ValidationError):
        TypeAdapter(Dirichlet).validate_python(arguments)


@pytest.mark.parametrize("alpha", [0.0, float("nan"), float("inf")])
def test_constructors_refuse_nonsense(alpha):
    with pytest.raises(ValueError, match="alpha"):
        Dirichlet(alpha)
    if alpha:
        with pytest.raises(ValueError, match="alpha"):
            WithReplacement(alpha)


def test_iid_parts_have_equal_sizes():
    sizes = Iid().split(dataset(103), 10, seed=1).sizes
    assert max(sizes) - min(sizes) == 1


def class_shares(alpha: float, clients: int, seeds: int) -> np.ndarray:
    """Which share of each class each client has, (seeds * classes, clients)."""
    data = dataset(20_000)
    splits = [Dirichlet(alpha, smallest=0).split(data, clients, seed).indices for seed in range(seeds)]
    return np.concatenate([np.stack([counts(data, part) / 2000 for part in parts], axis=1) for parts in splits])


def naive_shares(alpha: float, clients: int, draws: int) -> np.ndarray:
    """The definition of a Dirichlet law: gamma variables divided by their sum."""
    random = Random(7)
    gammas = [[random.gammavariate(alpha, 1) for _ in range(clients)] for _ in range(draws)]
    return np.array([[gamma / sum(row) for gamma in row] for row in gammas])


@pytest.mark.parametrize("alpha", [0.1, 0.5, 5.0])
def test_dirichlet_has_the_second_moment_of_its_law(alpha):
    clients = 8
    ours, naive = class_shares(alpha, clients, seeds=60), naive_shares(alpha, clients, draws=2000)
    expected = (alpha + 1) / (clients * alpha + 1)  # E[sum of squares] of a symmetric Dirichlet
    for squares in ((ours**2).sum(axis=1), (naive**2).sum(axis=1)):
        error = squares.std() / np.sqrt(len(squares))
        assert abs(squares.mean() - expected) < 4 * error + 1e-3  # rounding to whole examples: under 1 / 2000
    assert ours.mean(axis=0) == pytest.approx(np.full(clients, 1 / clients), abs=0.06)


def test_dirichlet_is_skewed_for_small_and_even_for_large_alpha():
    assert class_shares(1e-3, 10, seeds=3).max(axis=1).mean() > 0.95
    assert class_shares(1e3, 10, seeds=3).max() < 0.13


def test_dirichlet_moves_no_more_examples_than_needed_and_from_the_largest_parts():
    data, clients, smallest = dataset(400), 50, 4
    free, kept = (Dirichlet(0.05, least).split(data, clients, seed=3) for least in (0, smallest))
    assert min(free.sizes) == 0
    missing = sum(max(0, smallest - size) for size in free.sizes)
    moved = sum(len(np.setdiff1d(after, before)) for before, after in zip(free.indices, kept.indices, strict=True))
    assert moved == missing
    givers = [after for before, after in zip(free.sizes, kept.sizes, strict=True) if after < before]
    assert min(givers) >= max(kept.sizes) - 1


def test_shards_hold_few_classes():
    data = dataset(1000)
    parts = Shards(per_client=2).split(data, 20, seed=1)  # 40 shards of 25; a class is 4 shards
    assert set(parts.sizes) == {50}
    held = [np.count_nonzero(counts(data, part)) for part in parts.indices]
    assert max(held) <= 2
    assert all(set(counts(data, part)) <= {0, 25, 50} for part in parts.indices)


def test_natural_gives_each_client_its_group():
    data = dataset(100, groups=7)
    parts = Natural().split(data, 7, seed=1)
    assert all((data.groups[part] == client).all() for client, part in enumerate(parts.indices))  # type: ignore[index]


def test_natural_merges_whole_groups_into_the_smallest_client():
    sizes = [50, 20, 5, 40, 30]
    codes = np.repeat(np.arange(5), sizes)
    x, y = torch.zeros(145, 1), torch.zeros(145, dtype=torch.int64)
    data = Dataset(x, y, x, y, 1, codes, tuple("abcde"))
    parts = Natural().split(data, 3, seed=1)
    assert [set(codes[part]) for part in parts.indices] == [{0}, {1, 4}, {2, 3}]


def test_natural_needs_enough_groups():
    with pytest.raises(ScenarioError, match="8 clients cannot share 7 groups"):
        Natural().split(dataset(100, groups=7), 8, seed=1)
    x, y = torch.zeros(5, 1), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(ScenarioError, match="needs groups"):
        Natural().split(Dataset(x, y, x, y, 1), 2, seed=1)


@pytest.mark.parametrize("fraction", [0.0, 0.4, 1.0])
def test_label_swap_swaps_that_fraction_of_the_pair_and_nothing_else(fraction):
    data = dataset(2000)
    partition = LabelSwap(fraction, even=(0, 1), odd=(8, 9))
    parts = partition.split(data, 6, seed=1)
    assert all(map(np.array_equal, parts.indices, Iid().split(data, 6, seed=1).indices))
    assert parts.labels is not None
    for client, (part, seen) in enumerate(zip(parts.indices, parts.labels, strict=True)):
        true, pair = data.y.numpy()[part], (8, 9) if client % 2 else (0, 1)
        for old, new in (pair, pair[::-1]):
            changed = seen[true == old]
            assert (changed == new).sum() == round(fraction * len(changed))
            assert np.isin(changed, pair).all()
        others = ~np.isin(true, pair)
        assert np.array_equal(seen[others], true[others])


@pytest.mark.parametrize("pair", [(0, 10), (3, 3)])
def test_label_swap_needs_two_classes_that_exist(pair):
    with pytest.raises(ScenarioError, match="two different classes"):
        LabelSwap(0.5, odd=pair).split(dataset(100), 2, seed=1)


def test_with_replacement_overlaps_and_has_equal_sizes():
    data = dataset(1000)
    parts = WithReplacement(10.0).split(data, 7, seed=1)
    assert set(parts.sizes) == {1000 // 7}
    drawn = np.concatenate(parts.indices)
    assert len(np.unique(drawn)) < 0.75 * len(drawn)  # 994 draws out of 1000 leave about 1 - 1/e = 63 % different


def test_with_replacement_at_alpha_zero_gives_one_class_each():
    data = dataset(600)
    parts = WithReplacement(0).split(data, 12, seed=1)
    assert all(np.flatnonzero(counts(data, part)).tolist() == [i % 10] for i, part in enumerate(parts.indices))


@pytest.mark.parametrize("alpha", [0.1, 1.0, 100.0])
def test_with_replacement_has_the_second_moment_of_its_law(alpha):
    data = dataset(200)
    parts = WithReplacement(alpha, examples=2000).split(data, 500, seed=1)
    squares = np.array([((counts(data, part) / 2000) ** 2).sum() for part in parts.indices])
    expected = (alpha + 1) / (data.outputs * alpha + 1)
    assert abs(squares.mean() - expected) < 4 * squares.std() / np.sqrt(500) + 1e-3


def test_with_replacement_leaves_absent_classes_out():
    data = dataset(90, labels=np.arange(90) % 3 * 4)  # classes 0, 4 and 8 of ten
    for alpha in (0, 0.5):
        parts = WithReplacement(alpha, examples=30).split(data, 300, seed=1)
        assert set(parts.sizes) == {30}
