"""A run's numbers may be computed on a GPU: everything is where it belongs, and nothing else changes."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from pretending import GPU, pretending
from small import SCENARIOS, scenario, write_text
from typer.testing import CliRunner

import fedsim
from fedsim import conduct, experiment
from fedsim.__main__ import app
from fedsim.accelerator import CPU, device_of
from fedsim.aggregators.memory import Memory
from fedsim.errors import ScenarioError
from fedsim.scenario import FAMILIES, read
from fedsim.state import restore, saved

WITHOUT_TENSORS = {"devices", "availability", "participation", "rate", "stragglers", "network", "graph", "mixing",
                   "merge", "trace", "select", "discount", "timing", "partition", "data",
                   "faults"}  # fmt: skip
"""Families that say when and who, whose members do not compute with what is on a device; but for one that spoils it."""


ELSEWHERE = {"mnist", "fashion_mnist", "cifar10", "heart_disease", "remote"}
"""Data that may not be at hand, and an executor whose processes are others."""


@pytest.fixture(scope="module")
def plays(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_text(folder)
    return folder


@pytest.fixture
def card(monkeypatch) -> None:
    monkeypatch.setattr("fedsim.receipt.card", lambda device: f"a {device.type} of ours")


def on(device: torch.device, name: str, data: Path, out: Path) -> fedsim.Run:
    [arm] = read(scenario(name))
    with pretending() if device == GPU and not torch.cuda.is_available() else nullcontext():
        made = experiment.assemble(arm, data, device=device)
        return conduct.conduct(made, out / name.replace(" ", "_"))


def named(value: object, found: set[str]) -> set[str]:
    """All words of a scenario."""
    if isinstance(value, dict):
        for key, part in value.items():
            named(part, found | {key} if found.add(key) else found)
    elif isinstance(value, str):
        found.add(value)
    return found


@cache
def mentioned() -> set[str]:
    return named(dict(SCENARIOS) | {"": scenario("codec none")}, set()) | {"backpropagation", "stacked"}


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - WITHOUT_TENSORS))
def test_every_member_of_a_family_is_in_a_small_scenario(family) -> None:
    assert not FAMILIES[family].keys() - mentioned() - ELSEWHERE


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_tensors_of_a_run_are_where_they_belong(name, plays, tmp_path, card) -> None:
    """Of a GPU that pretends: whatever is computed with tensors of two places raises."""
    found = on(GPU, name, plays, tmp_path)
    assert found.receipt["device"] == {"kind": "cuda", "card": "a cuda of ours"}


@pytest.mark.parametrize("name", ["server fedstale", "peers dpsgd", "coding gc", "personal", "eggroll by scores"])
def test_models_and_data_are_on_the_device(name, plays) -> None:
    [arm] = read(scenario(name))
    with pretending() as gpu:
        made = experiment.assemble(arm, plays, {}, GPU)
        simulation = made.simulation(fedsim.trace.Trace())
        simulation.run()
        there = [made.params, made.trainer.x, made.trainer.y, made.evaluator.dataset.x_test,
                 *made.evaluator.model.parameters(), *conduct.models(simulation).values()]  # fmt: skip
        assert all(map(gpu.holds, there))


@pytest.mark.parametrize("name", ["server fedbuff", "noise by each", "codec srht", "model cnn_group", "optimizer adamw",
                                  "peers sgp", "frugal columns", "borep"])  # fmt: skip
def test_nothing_else_changes(name, plays, tmp_path, card) -> None:
    alike(on(CPU, name, plays, tmp_path / "cpu"), on(GPU, name, plays, tmp_path / "gpu"))


def alike(one: fedsim.Run, other: fedsim.Run) -> None:
    """The same timeline, batches and noise; numbers but for rounding."""
    assert one.receipt["trace"] == other.receipt["trace"]
    assert one.receipt["scenario"] == other.receipt["scenario"]
    assert one.metrics.columns.equals(other.metrics.columns)
    np.testing.assert_allclose(one.metrics.to_numpy(float), other.metrics.to_numpy(float), rtol=2e-3, atol=2e-3)
    for key, weights in one.weights.items() if (one.path / "model.safetensors").exists() else ():
        np.testing.assert_allclose(weights, other.weights[key], rtol=1e-3, atol=1e-4)


def test_a_state_is_saved_from_the_device_and_put_back_there() -> None:
    like = torch.arange(5.0)
    with pretending() as gpu:
        memory, other = Memory(like.to(GPU)), Memory(like.to(GPU))
        memory.remember(3, like.to(GPU), 0.5)
        restore(other, saved(memory), GPU)
        assert gpu.holds(other.sum)
        assert gpu.holds(other[3])
        assert other[3].tolist() == like.tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", SCENARIOS)
def test_on_a_gpu_it_is_the_same_run(name, plays, tmp_path) -> None:
    alike(on(CPU, name, plays, tmp_path / "cpu"), on(GPU, name, plays, tmp_path / "gpu"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cuda", "device: cuda is not there: torch"),
        ("cuda:3", "device: cuda:3 is not there: torch"),
        ("gpu", "device: 'gpu' is none; did you mean cpu?"),
        ("cuda:x", "device: 'cuda:x' is none; did you mean cuda?"),
        ("cpu:1", "device: 'cpu:1' is none; did you mean cpu?"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(name, sentence, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "small.yaml").write_text(json.dumps(scenario("codec none")))
    done = CliRunner().invoke(
        app, ["run", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "runs"), "--device", name]
    )
    assert isinstance(done.exception, ScenarioError)
    assert str(done.exception).startswith(sentence)
    assert "\n" not in str(done.exception)
    assert not (tmp_path / "runs").exists()


def test_of_several_gpus_one_can_be_named(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("cuda") == torch.device("cuda", 0)
    assert device_of("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ScenarioError, match="finds 2 GPUs here"):
        device_of("cuda:2")


def test_the_receipt_names_the_device_and_the_folder_does_not(tmp_path) -> None:
    found = conduct.run(scenario("codec none"), out=tmp_path, picture=False, device="cpu")
    assert found.receipt["device"]["kind"] == "cpu"
    assert found.receipt["device"]["card"]
    assert found.path.name == read(scenario("codec none"))[0].digest
