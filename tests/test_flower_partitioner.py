"""flwr-datasets' partitioners share out our data, and ours have the same laws as theirs."""

from __future__ import annotations

import sys
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
import torch

import fedsim
from fedsim.data import Dataset, Dirichlet, FlowerPartitioner, Iid, Partition, Shards
from fedsim.errors import ExtraMissing, ScenarioError

SMALL: dict[str, Any] = {
    "until": {"versions": 1},
    "data": {"digits": {"partition": {"flower": {"partitioner": "DirichletPartitioner", "arguments": {"alpha": 0.3}}}}},
    "model": "logistic",
    "fleet": {"clients": 5, "devices": "fedscale"},
    "local": {"steps": 1, "batch": 8, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {"fedavg": {"cohort": 2}},
    "evaluate": {"every": "1 d"},
}


def dataset(n: int = 2000, classes: int = 10, groups: int = 8) -> Dataset:
    """The i-th example is the number i."""
    x, y = torch.arange(n, dtype=torch.float32).unsqueeze(1), torch.arange(n) % classes
    return Dataset(x, y, x, y, classes, np.arange(n) // 3 % groups, tuple(map(str, range(groups))))


def test_without_flwr_datasets_it_says_what_to_install(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    monkeypatch.setitem(sys.modules, "flwr_datasets.partitioner", None)
    with pytest.raises(ExtraMissing, match=r"fedsim-lab\[hub\]"):
        fedsim.run(SMALL, out=tmp_path, picture=False)


@pytest.fixture
def partitioners() -> Any:
    """flwr-datasets' own, or the test is skipped."""
    return pytest.importorskip("flwr_datasets.partitioner", reason="flwr-datasets (extra hub) is not installed")


COVERING = {
    "IidPartitioner": {},
    "DirichletPartitioner": {"alpha": 0.3, "min_partition_size": 1},
    "ShardPartitioner": {"num_shards_per_partition": 2},
    "LinearPartitioner": {},
    "SquarePartitioner": {},
    "PathologicalPartitioner": {"num_classes_per_partition": 5},
    "NaturalIdPartitioner": {"partition_by": "group"},
}


@pytest.mark.parametrize("name", COVERING)
def test_every_example_goes_to_one_client_and_a_seed_decides(partitioners, name) -> None:
    data, before = dataset(), np.random.get_state()[1].copy()  # type: ignore[index]
    partition = FlowerPartitioner(name, COVERING[name])
    parts = partition.split(data, 8, seed=1)
    assert len(parts.indices) == 8
    assert np.array_equal(np.sort(np.concatenate(parts.indices)), np.arange(2000))
    assert all(map(np.array_equal, parts.indices, partition.split(data, 8, seed=1).indices))
    other = partition.split(data, 8, seed=2).indices
    drawn = name in ("DirichletPartitioner", "ShardPartitioner", "PathologicalPartitioner")
    assert drawn != all(map(np.array_equal, parts.indices, other))
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]


def test_a_scenario_names_it_and_its_own_arguments_win(partitioners, tmp_path) -> None:
    result = fedsim.run(SMALL, out=tmp_path, picture=False)
    assert fedsim.run(
        SMALL, "data.digits.partition={flower: {partitioner: IidPartitioner}}", out=tmp_path, picture=False
    ).finished
    assert result.receipt["counts"]["versions"] == 1
    data = dataset()
    by_hand = partitioners.DirichletPartitioner(8, "label", 0.3, min_partition_size=1, seed=7)
    named = FlowerPartitioner("DirichletPartitioner", {"alpha": 0.3, "min_partition_size": 1, "seed": 7})
    dotted = FlowerPartitioner("flwr_datasets.partitioner:DirichletPartitioner", named.arguments)
    parts = [one.split(data, 8, seed=1).indices for one in (FlowerPartitioner(by_hand), named, dotted)]
    assert all(all(map(np.array_equal, parts[0], other)) for other in parts[1:])
    assert all(map(np.array_equal, parts[0], FlowerPartitioner(by_hand).split(data, 8, seed=2).indices))


@pytest.mark.parametrize(
    ("partition", "said"),
    [
        (FlowerPartitioner("DirichletPartitionr", {}), "no 'DirichletPartitionr'; did you mean DirichletPartitioner"),
        (FlowerPartitioner("DirichletPartitioner", {}), "partitioner DirichletPartitioner: .*alpha"),
        (FlowerPartitioner("DirichletPartitioner", {"alpha": -1.0}), "partitioner DirichletPartitioner: "),
        (FlowerPartitioner("NaturalIdPartitioner", {}), "it has 10 parts, and there are 8 clients"),
        (FlowerPartitioner("no_such_lab:Mine"), "cannot load 'no_such_lab:Mine'"),
        (FlowerPartitioner("IidPartitioner", {"num_partitions": 3}), "it has 3 parts, and there are 8 clients"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(partitioners, partition, said) -> None:
    with pytest.raises(ScenarioError, match=said):
        partition.split(dataset(), 8, seed=1)


# Ours beside theirs -------------------------------------------------------------------------------------------------


def skew(partition: Partition, seed: int, clients: int = 10) -> float:
    """The clients' mean distance in total variation from the labels of all."""
    data = dataset(1000)
    mixes = [np.bincount(data.y.numpy()[part], minlength=10) for part in partition.split(data, clients, seed).indices]
    return mean(float(np.abs(mix / max(1, mix.sum()) - 0.1).sum() / 2) for mix in mixes)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Dirichlet(0.1), FlowerPartitioner("DirichletPartitioner", {"alpha": 0.1, "min_partition_size": 1})),
        (Dirichlet(1.0), FlowerPartitioner("DirichletPartitioner", {"alpha": 1.0, "min_partition_size": 1})),
        (Shards(2), FlowerPartitioner("ShardPartitioner", {"num_shards_per_partition": 2})),
    ],
    ids=repr,
)
def test_label_skew_is_the_same_within_three_standard_errors(partitioners, ours, theirs) -> None:
    one, other = ([skew(partition, seed) for seed in range(20)] for partition in (ours, theirs))
    error = np.hypot(stdev(one), stdev(other)) / 20**0.5
    assert abs(mean(one) - mean(other)) < 3 * error


def test_equal_parts_are_as_equal_as_theirs(partitioners) -> None:
    for partition in (Iid(), FlowerPartitioner("IidPartitioner")):
        sizes = partition.split(dataset(1003), 10, seed=1).sizes
        assert sum(sizes) == 1003
        assert max(sizes) - min(sizes) <= 1
