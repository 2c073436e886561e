"""Every aggregator from a scenario file, on real data: it learns, and costs what it should."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import fedsim
from fedsim import experiment, scenario
from fedsim.aggregators import AGGREGATORS
from fedsim.conduct import conduct
from fedsim.errors import ScenarioError
from fedsim.trace import Trace

DIGITS = {
    "seed": 3,
    "until": {"versions": 30},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.5}}}},
    "model": "logistic",
    "fleet": {"clients": 8, "devices": "fedscale"},
    "local": {"steps": 4, "batch": 16, "optimizer": {"sgd": {"lr": 0.2}}},
    "evaluate": {"every": "1 h"},
}
NEEDS = {
    "fedfix": {"interval": "1 min"},
    "fedbuff": {"goal": 4},
    "ca2fl": {"goal": 4},
    "fadas": {"goal": 4, "lr": 0.02},
    "async_fedavg": {"lr": 0.3},
    "cda": {"ipc": 1, "views": 4, "epochs": 2, "smallest": 0.3, "recover": {"steps": 5, "jitter": 0, "flip": False}},
    "fetchsgd": {"columns": 0.2, "kept": 0.1, "momentum": 0.5, "lr": 0.3},
}
"""What has no default, or one that is too large for 8 clients as unequal as these, or too small for 30 versions."""
SETTINGS: dict[str, dict[str, Any]] = {
    "altmin": {
        "data": {"low_rank": {"rows": 60, "columns": 40, "rank": 2, "observed": 0.3}},
        "model": {"low_rank": {"rank": 2}},
        "local": {"steps": 1, "optimizer": {"sgd": {"lr": 1.0}}},
    },
    "cda": {"model": {"mlp": {"hidden": [16], "norm": "batch"}}},
}
"""Of those that are not for any model."""


def run(out, name: str, *overrides: str, **arguments) -> fedsim.Run:
    """Without a picture, which would take most of the time."""
    (arm,) = scenario.read(
        DIGITS | SETTINGS.get(name, {}) | {"aggregator": {name: NEEDS.get(name, {}) | arguments}}, overrides
    )
    return conduct(experiment.assemble(arm), out / arm.digest)


def digests(found: fedsim.Run) -> tuple[str, str]:
    return found.receipt["digests"]["model.safetensors"], found.receipt["trace"]["sha256"]


@pytest.mark.parametrize("name", AGGREGATORS)
def test_it_learns(tmp_path, name) -> None:
    found = run(tmp_path, name)
    assert found.receipt["counts"]["versions"] == 30
    assert all(np.isfinite(weights).all() for weights in found.weights.values())
    assert found.metrics.loss.iloc[-1] < 0.85 * found.metrics.loss.iloc[0]


@pytest.mark.parametrize("name", AGGREGATORS)
def test_it_is_the_same_whatever_the_executor_on_a_fleet_that_fails(tmp_path, name) -> None:
    fleet = {"clients": 8, "devices": "fedscale", "availability": {"markov": {"on": "2 h", "off": "10 min"}}}
    rough = f"fleet={json.dumps(fleet | {'drop': 0.3})}"
    few = ["until.versions=8", rough]
    inline, stacked, null = (run(tmp_path, name, *few, f"executor={how}") for how in ("inline", "stacked", "null"))
    assert digests(inline) == digests(stacked)
    assert null.receipt["trace"] == inline.receipt["trace"]
    assert inline.receipt["counts"]["lost"] > 0


def test_scaffold_sends_twice_as_much_both_ways(tmp_path) -> None:
    ways = "bytes_down", "bytes_up"
    one, two = (run(tmp_path, name).receipt["counts"] for name in ("fedavg", "scaffold"))
    assert one["updates"] == two["updates"]
    assert [two[way] for way in ways] == [2 * one[way] for way in ways]
    assert one["bytes_up"] == 4 * 650 * one["updates"]


def test_fedprox_without_a_pull_is_fedavg_to_the_last_bit(tmp_path) -> None:
    plain, still, held = (run(tmp_path, "fedavg"), run(tmp_path, "fedprox", mu=0), run(tmp_path, "fedprox", mu=0.5))
    assert digests(still) == digests(plain)
    assert digests(held)[0] != digests(plain)[0]
    assert digests(held)[1] == digests(plain)[1]


@pytest.mark.parametrize("optimizer", ["adam: {}", "sgd: {lr: 0.1, momentum: 0.9, nesterov: true}"])
def test_fednova_refuses_clients_for_whom_it_has_no_formula(tmp_path, optimizer) -> None:
    with pytest.raises(ScenarioError, match="fednova needs clients whose optimizer is sgd, without nesterov") as error:
        run(tmp_path, "fednova", f"local.optimizer={{{optimizer}}}")
    assert len(str(error.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_fednova_knows_the_clients_momentum(tmp_path) -> None:
    few = "until.versions=2"
    local = "local={epochs: 1, batch: 16, optimizer: {sgd: {lr: 0.05, momentum: 0.9}}}"
    (arm,) = scenario.read(DIGITS | {"aggregator": "fednova"}, [few, local])
    assert experiment.assemble(arm).simulation(Trace()).aggregator.local_momentum == 0.9
    plain, nova = (run(tmp_path, name, few, local) for name in ("fedavg", "fednova"))
    assert digests(plain)[0] != digests(nova)[0]
    assert digests(plain)[1] == digests(nova)[1]


@pytest.mark.parametrize("name", ["fedavg", "fednova"])
def test_clients_without_examples_change_nothing(tmp_path, name) -> None:
    """With epochs they take no step; a round of such clients alone leaves the model as it is."""
    empty = "data={digits: {partition: {dirichlet: {alpha: 0.01, smallest: 0}}}}"
    local = "local={epochs: 1, batch: 16, optimizer: {sgd: {lr: 0.1}}}"
    found = run(tmp_path, name, empty, local, "fleet.clients=20", cohort=1)
    assert len(found.trace.client.unique()) > 5
    assert all(np.isfinite(weights).all() for weights in found.weights.values())


@pytest.mark.parametrize("unreliable", ["fleet.drop=0.1", "fleet.availability={markov: {on: 1 h, off: 1 h}}"])
def test_participation_is_not_known_where_clients_break_or_go_away(tmp_path, unreliable) -> None:
    """The share of rounds that the fleet names is then not the share of rounds in which the server hears of them."""
    calm = "fleet.drop=0", "fleet.availability=always"
    run(tmp_path, "fedstale", *calm, known_participation=True)
    with pytest.raises(ScenarioError, match="participation is not known where clients come and go or break"):
        run(tmp_path, "fedstale", *calm, unreliable, known_participation=True)
