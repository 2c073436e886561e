"""Whole runs: the folder, the same result whatever computes it, and failures that leave a readable folder."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import fedsim
from fedsim import experiment
from fedsim.__main__ import main
from fedsim.conduct import foresee
from fedsim.errors import DataMissing, ScenarioError, Stalled, TrainingFailed

ROOT = Path(__file__).parent.parent

SMALL = {
    "seed": 3,
    "until": {"versions": 6},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.5}}}},
    "model": {"mlp": {"hidden": [16]}},
    "fleet": {
        "clients": 12,
        "devices": "fedscale",
        "availability": {"markov": {"on": "2 h", "off": "30 min"}},
        "drop": 0.05,
    },
    "local": {"steps": 3, "batch": 8, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {"fedbuff": {"concurrency": 6, "goal": 3}},
    "evaluate": {"every": "1 min"},
}
AGGREGATORS = ["{fedavg: {cohort: 6, goal: 4}}", "{fedbuff: {concurrency: 6, goal: 3}}", "{fedasync: {concurrency: 4}}"]


def digests(run: fedsim.Run) -> dict[str, str]:
    return {name: run.receipt["digests"][name] for name in ("metrics.csv", "model.safetensors")} | {
        "trace": run.receipt["trace"]["sha256"]
    }


def test_a_run_folder_holds_what_it_should_and_its_digests_are_true(tmp_path) -> None:
    run = fedsim.run(SMALL, out=tmp_path)
    assert {path.name for path in run.path.iterdir()} == {
        "scenario.yaml", "metrics.csv", "links.parquet", "trace.parquet", "model.safetensors", "receipt.json",
        "metrics.png",
    }  # fmt: skip
    for name, digest in run.receipt["digests"].items():
        assert hashlib.sha256((run.path / name).read_bytes()).hexdigest() == digest
    assert run.path.name == run.receipt["scenario"]
    assert run.receipt["counts"]["versions"] == 6
    assert run.metrics.version.tolist() == sorted(run.metrics.version)
    assert len(run.trace) == len(pd.read_parquet(run.path / "trace.parquet")) == run.receipt["trace"]["rows"]
    assert run.trace.time.is_monotonic_increasing
    assert (run.metrics.iloc[-1].bytes_down + run.metrics.iloc[-1].bytes_up) == run.trace.nbytes.sum()
    assert sum(weights.size for weights in run.weights.values()) == 64 * 16 + 16 + 16 * 10 + 10


def test_it_learns(tmp_path) -> None:
    run = fedsim.run(SMALL, "until.versions=60", "aggregator.fedbuff.goal=5", out=tmp_path)
    assert run.metrics.accuracy.iloc[-1] > run.metrics.accuracy.iloc[0] + 0.4


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_the_same_whatever_the_executor(tmp_path, aggregator) -> None:
    runs = [
        fedsim.run(SMALL, f"aggregator={aggregator}", f"executor={executor}", out=tmp_path)
        for executor in ("inline", "stacked", "{stacked: {ahead: true}}", "{stacked: {ahead: false, budget: 6 kB}}")
    ]
    assert len({json.dumps(digests(run)) for run in runs}) == 1
    null = fedsim.run(SMALL, f"aggregator={aggregator}", "executor=null", out=tmp_path)
    assert null.receipt["trace"] == runs[0].receipt["trace"]
    assert null.receipt["counts"]["trained"] == 0
    assert runs[1].receipt["counts"]["trained"] <= runs[0].receipt["counts"]["trained"]


def test_a_convolutional_network_is_the_same_whatever_the_executor(tmp_path) -> None:
    options = ["model={resnet: {width: 8, blocks: [1]}}", "until.versions=2", "local.steps=2"]
    runs = [fedsim.run(SMALL, *options, f"executor={executor}", out=tmp_path) for executor in ("inline", "stacked")]
    assert runs[0].receipt["trace"] == runs[1].receipt["trace"]
    for name, weights in runs[0].weights.items():
        np.testing.assert_allclose(runs[1].weights[name], weights, rtol=1e-5, atol=1e-7)


def test_the_same_again_and_global_randomness_untouched(tmp_path) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = digests(fedsim.run(SMALL, out=tmp_path))
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    random.random(), np.random.rand(), torch.rand(3)
    assert digests(fedsim.run(SMALL, out=tmp_path)) == first
    assert digests(fedsim.run(SMALL, "seed=4", out=tmp_path)) != first


def test_measuring_does_not_disturb(tmp_path) -> None:
    often, seldom = (fedsim.run(SMALL, f"evaluate.every={every}", out=tmp_path) for every in ("7 s", "5 h"))
    assert often.receipt["trace"] == seldom.receipt["trace"]
    assert often.receipt["digests"]["model.safetensors"] == seldom.receipt["digests"]["model.safetensors"]


def test_nothing_is_asked_of_the_network(tmp_path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    assert fedsim.run(SMALL, out=tmp_path).finished


def test_a_comparison_is_a_run_an_arm_with_one_picture(tmp_path) -> None:
    compare = [{"aggregator": "fedavg"}, {"aggregator": {"fedbuff": {"goal": 2}}}]
    run = fedsim.run(SMALL | {"compare": compare}, out=tmp_path)
    assert [arm.label for arm in run.arms] == ["fedavg", "fedbuff"]
    assert set(run.metrics.arm) == set(run.trace.arm) == {"fedavg", "fedbuff"}
    assert (run.path / "metrics.png").read_bytes().startswith(b"\x89PNG")
    again = fedsim.run(run.path / "scenario.yaml", out=tmp_path)
    assert [digests(arm) for arm in again.arms] == [digests(arm) for arm in run.arms]
    alone = fedsim.run(SMALL | {"aggregator": "fedavg"}, out=tmp_path)
    assert digests(alone) == digests(run.arms[0])


def test_a_run_can_be_read_while_it_goes_on(tmp_path) -> None:
    seen = []

    def look(label, progress, now) -> None:
        for path in tmp_path.glob("scenario/*"):
            if (path / "metrics.csv").exists():
                run = fedsim.load(path)
                assert not run.finished
                seen.append((len(run.metrics), len(run.trace)))

    fedsim.run(SMALL, out=tmp_path, watch=look)
    assert len(seen) > 5
    assert seen == sorted(seen)


def test_a_crash_in_training_leaves_a_readable_folder(tmp_path) -> None:
    with pytest.raises(TrainingFailed, match="diverged"):
        fedsim.run(SMALL, "local.optimizer.sgd.lr=1e20", "until.versions=50", out=tmp_path)
    (folder,) = tmp_path.glob("scenario/*")
    run = fedsim.load(folder)
    assert not run.finished
    assert len(run.trace) > 0
    assert "virtual time" in json.loads((folder / "failure.json").read_text())["message"]


@pytest.mark.parametrize(
    ("overrides", "error", "said"),
    [
        (["fleet.clients=5000"], ScenarioError, "too few for 5000 clients"),
        (["aggregator={fedavg: {cohort: 3, goal: 5}}"], ScenarioError, "goal is 5, but only 3 clients"),
        (["select=oort", "executor=null"], ScenarioError, "cannot run without training"),
        (["until={accuracy: 0.9}"], ScenarioError, "so that the run ends even if the accuracy is never reached"),
        (["fleet.drop=1.0", "fleet.clients=2"], Stalled, "no server step"),
        (["fleet.participation={bernoulli: {rate: 1.0e-12}}"], Stalled, "took part in"),
        (["data=fashion_mnist", "folder=/nowhere"], DataMissing, "fedsim data fashion_mnist"),
        (["data={digits: {partition: natural}}"], ScenarioError, "group"),
        (["model=char_lstm"], ScenarioError, "this model needs text"),
    ],
)
def test_bad_input_ends_with_one_clear_error(tmp_path, monkeypatch, overrides, error, said) -> None:
    monkeypatch.chdir(tmp_path)  # where there are no data
    with pytest.raises(error, match=said):
        fedsim.run(SMALL, *overrides, out=tmp_path)


@pytest.mark.parametrize(
    "overrides",
    [
        ["fleet.clients=1"],
        ["aggregator={fedavg: {cohort: 500}}"],
        ["aggregator={fedbuff: {concurrency: 2, goal: 30}}", "until.versions=2"],
        ["data.digits.partition.dirichlet.alpha=0.001"],
        ["data.digits.partition.dirichlet.alpha=1000"],
        ["fleet.participation={bernoulli: {rate: 0.1}}"],
        ["fleet.participation={markov: {rate: {groups: {rates: [1.0, 0.1]}}}}"],
        ["fleet.participation={cyclic: {rate: label_correlated, period: 20}}", "aggregator={fedavg: {cohort: 12}}"],
        ["select=availability", "aggregator={fedavg: {cohort: 3}}"],
        ["select=oort", "aggregator={fedavg: {cohort: 3}}"],
        ["local={epochs: 1, batch: 10, optimizer: {adam: {}}}"],
        ["until={time: 20 min}"],
        ["until={accuracy: 0.2, versions: 100}"],
    ],
)
def test_odd_but_sound_scenarios_end(tmp_path, overrides) -> None:
    assert fedsim.run(SMALL, *overrides, out=tmp_path).finished


UNHINDERED = {"star": {"latency": "0 s", "server_up": "unlimited", "server_down": "unlimited"}}


@pytest.mark.parametrize("model", [{"mlp": {"hidden": [4]}}, {"mlp": {"hidden": [300]}}])
def test_a_linear_fleet_on_an_unhindered_star_has_exactly_its_round_trips(tmp_path, model) -> None:
    """FedFix's F-80 with six clients: 1, 0.84, 0.68, ... s."""
    scenario = SMALL | {
        "fleet": {"clients": 6, "devices": "linear"}, "model": model, "network": UNHINDERED,
        "until": {"time": "100 s"}, "executor": "null", "aggregator": {"fedasync": {"concurrency": 6}},
    }  # fmt: skip
    run = fedsim.run(scenario, out=tmp_path)
    for client, time in enumerate([1_000_000, 840_000, 680_000, 520_000, 360_000, 200_000]):
        own = run.trace[run.trace.client == client]
        starts, ends = (own.time[own.kind == kind].to_numpy() for kind in ("start", "arrive"))
        assert len(ends) >= 99
        assert set(ends - starts[: len(ends)]) == {time}
    assert fedsim.run(run.path / "scenario.yaml", out=tmp_path).receipt["trace"] == run.receipt["trace"]


def test_rates_follow_the_labels_that_clients_see() -> None:
    """With swapped labels alone two classes are wrong: the rates are those of the swapped ones."""
    scenario = SMALL | {
        "data": {"digits": {"partition": {"label_swap": {"fraction": 1.0, "even": [0, 1], "odd": [8, 9]}}}},
        "fleet": {"clients": 4, "devices": "linear", "participation": {"bernoulli": {"rate": "label_correlated"}}},
    }
    assembled = experiment.assemble(fedsim.scenario.read(scenario)[0])
    trainer = assembled.trainer
    for seen, labels in zip(assembled.given["labels"], trainer.parts.labels, strict=True):
        assert seen == (np.bincount(labels, minlength=10) / len(labels)).tolist()


def test_a_users_own_module_and_rule_by_dotted_path(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_lab.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, shape: tuple, classes: int, width: int = 4):\n"
        "        super().__init__()\n"
        "        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, width), torch.nn.Tanh(),\n"
        "                                          torch.nn.Linear(width, classes))\n"
        "    def forward(self, x):\n"
        "        return self.layers(x)\n"
        "class Halves:\n"
        "    def __call__(self, staleness: int) -> float:\n"
        "        return 0.5 ** staleness\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ["model={'my_lab:Net': {width: 6}}", "aggregator.fedbuff.discount='my_lab:Halves'"]
    run = fedsim.run(SMALL, *options, out=tmp_path)
    assert run.weights["layers.1.weight"].shape == (6, 64)
    with pytest.raises(ScenarioError, match="did you mean width"):
        fedsim.run(SMALL, "model={'my_lab:Net': {widht: 6}}", out=tmp_path)


def test_a_users_own_data_by_dotted_path(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_data.py").write_text(
        "from dataclasses import dataclass\n"
        "import torch\n"
        "from fedsim.data import Dataset, Iid\n"
        "@dataclass(frozen=True)\n"
        "class Signs:\n"
        "    partition: object = Iid()\n"
        "    examples: int = 100\n"
        "    def load(self, folders):\n"
        "        x = torch.linspace(-1, 1, self.examples).unsqueeze(1)\n"
        "        y = (x[:, 0] > 0).long()\n"
        "        return Dataset(x, y, x, y, outputs=2)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = ["model=logistic", "until.versions=40", "aggregator.fedbuff.goal=5"]
    data = "data={'my_data:Signs': {examples: 240, partition: {shards: {per_client: 2}}}}"
    run = fedsim.run(SMALL, data, *options, out=tmp_path)
    assert run.metrics.accuracy.iloc[-1] > 0.9
    assert run.weights["1.weight"].shape == (2, 1)


def test_foresight_is_exact(tmp_path) -> None:
    from fedsim.scenario import read

    (arm,) = read(SMALL)
    cost = foresee(experiment.assemble(arm))
    counts = fedsim.run(SMALL, out=tmp_path).receipt["counts"]
    assert {name: cost[name] for name in ("versions", "updates", "lost", "bytes_down", "bytes_up")} == {
        name: counts[name] for name in ("versions", "updates", "lost", "bytes_down", "bytes_up")
    }


def test_what_cannot_be_foreseen_is_said() -> None:
    from fedsim.scenario import read

    (arm,) = read(SMALL, ["select=oort", "until={versions: 4, accuracy: 0.9}"])
    caveat = foresee(experiment.assemble(arm))["caveat"]
    assert "accuracy may end it sooner" in caveat
    assert "uniformly" in caveat


def command(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fedsim", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.fixture
def file(tmp_path) -> str:
    (path := tmp_path / "small.yaml").write_text(json.dumps(SMALL))
    return str(path)


def test_the_command_line_runs_checks_and_lists(tmp_path, monkeypatch, capsys, file) -> None:
    out = str(tmp_path / "out")
    assert command(monkeypatch, "run", file, "until.versions=3", "--out", out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["runs"]["small"]["version"] == 3
    assert fedsim.load(printed["path"]).finished
    assert command(monkeypatch, "run", file, "--out", out) == 0
    assert "staleness" in capsys.readouterr().out
    assert command(monkeypatch, "check", file, "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["cost"]["versions"] == 6
    assert command(monkeypatch, "list") == 0
    assert "fedbuff(concurrency, goal, wait, discount, weights, importance, lr)" in capsys.readouterr().out
    assert command(monkeypatch, "schema") == 0
    assert "properties" in json.loads(capsys.readouterr().out)


def test_exit_codes(tmp_path, monkeypatch, capsys, file) -> None:
    out = str(tmp_path / "out")
    assert command(monkeypatch, "run", file, "local.stepz=3", "--out", out) == 2
    assert "did you mean steps" in capsys.readouterr().err
    assert command(monkeypatch, "run", str(tmp_path / "none.yaml")) == 2
    assert command(monkeypatch, "run", file, "local.optimizer.sgd.lr=1e20", "until.versions=90", "--out", out) == 1
    assert "the run failed: local training of client" in capsys.readouterr().err
    assert command(monkeypatch, "data", "shakespeare", "--data", out) == 2
    monkeypatch.setitem(sys.modules, "flwr_datasets", None)
    assert command(monkeypatch, "data", "mnist", "--data", out) == 4
    assert "fedsim-lab[hub]" in capsys.readouterr().err
