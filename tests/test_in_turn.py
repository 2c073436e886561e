"""Two tasks, one after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fedsim
from fedsim.data import PermutedDigits
from fedsim.errors import ScenarioError


def test_the_second_task_is_the_first_with_its_pixels_in_another_order() -> None:
    dataset = PermutedDigits(seed=3, trainings=2).load()
    for x, y in ((dataset.x, dataset.y), (dataset.x_test, dataset.y_test)):
        (first, second), (labels, again) = x.chunk(2), y.chunk(2)
        assert torch.equal(labels, again)
        assert not torch.equal(first, second)
        assert torch.equal(first.flatten(1).sort(1).values, second.flatten(1).sort(1).values)
    assert not torch.equal(dataset.x, PermutedDigits(seed=4, trainings=2).load().x)


def test_clients_change_over_and_are_tested_on_one_of_them() -> None:
    source = PermutedDigits(seed=3, trainings=2)
    dataset = source.load()
    parts, half = source.partition.split(dataset, 4, 3), len(dataset) // 2
    assert np.array_equal(np.sort(np.concatenate(parts.indices)), np.arange(half))
    for client in range(4):
        assert np.array_equal(parts.held(client, 1), parts.indices[client])
        assert np.array_equal(parts.held(client, 2), parts.indices[client] + half)
        assert parts.test is not None
        assert set(parts.test.indices[client] // (len(dataset.y_test) // 2)) == {client % 2}
    with pytest.raises(ScenarioError, match="multiple of 2 clients, not 3"):
        source.partition.split(dataset, 3, 3)


def test_two_phases_are_the_same_under_every_executor(tmp_path) -> None:
    changes = (
        "until.versions=4",
        "data.permuted_digits.trainings=2",
        "local.optimizer={classp: {plain: 2, threshold: 0}}",
    )
    runs = [fedsim.run("scenarios/classp.yaml", *changes, f"executor={kind}", out=tmp_path, picture=False)
            for kind in ("inline", "stacked")]  # fmt: skip
    assert len({run.receipt["digests"]["model.safetensors"] for run in runs}) == 1
    assert runs[0].clients is not None
    assert len(runs[0].clients.client.unique()) == 10
