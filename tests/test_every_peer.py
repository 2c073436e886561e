"""Every algorithm of peers from a scenario file, on real data: it learns, and costs what it should."""

from __future__ import annotations

import json

import numpy as np
import pytest
from documents import python_file

import fedsim
from fedsim import experiment, scenario
from fedsim.conduct import conduct, foresee
from fedsim.errors import ScenarioError
from fedsim.peers import PEERS
from fedsim.trace import ARRIVE, KINDS, UPLOAD

PARAMS = 650
DIGITS = {
    "seed": 3,
    "until": {"versions": 25},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.5}}}},
    "model": "logistic",
    "fleet": {"clients": 8, "devices": "fedscale"},
    "network": {"exponential": {"capacity": "2 Mbit/s"}},
    "local": {"steps": 4, "batch": 16, "optimizer": {"sgd": {"lr": 0.1}}},
    "evaluate": {"every": "10 min"},
}
PULL = {"directed_pull": {"partners": 1.2}}
NEEDS = {
    "gossip": {"mixing": PULL, "merge": "last"},
    "gossip_pga": {"mixing": PULL, "period": 5},
}
"""What has no default."""


def arm(name: str, *overrides: str, **arguments) -> scenario.Arm:
    (only,) = scenario.read(DIGITS | {"peers": {name: NEEDS.get(name, {}) | arguments}}, overrides)
    return only


def run(out, name: str, *overrides: str, **arguments) -> fedsim.Run:
    """Without a picture, which would take most of the time."""
    only = arm(name, *overrides, **arguments)
    return conduct(experiment.assemble(only), out / only.digest)


@pytest.mark.parametrize("name", PEERS)
def test_it_learns(tmp_path, name) -> None:
    found = run(tmp_path, name)
    assert found.receipt["counts"]["versions"] == 25
    assert all(np.isfinite(weights).all() for weights in found.weights.values())
    first, last = found.metrics.iloc[0], found.metrics.iloc[-1]
    assert last.merged_loss < 0.8 * first.merged_loss
    assert first.consensus == 0
    assert (last.bytes_up > 0) == (name != "local")
    for name, rows in found.peers.items():
        np.testing.assert_allclose(rows.mean(axis=0), found.weights[name], atol=1e-6)


@pytest.mark.parametrize("name", PEERS)
def test_it_is_the_same_whatever_the_executor(tmp_path, name) -> None:
    few = ["until.versions=6", "fleet.stragglers={lognormal: {sigma: 0.5}}"]
    inline, stacked, null = (run(tmp_path, name, *few, f"executor={how}") for how in ("inline", "stacked", "null"))
    for file in ("model.safetensors", "peers.safetensors"):
        assert inline.receipt["digests"][file] == stacked.receipt["digests"][file]
    assert null.receipt["trace"] == inline.receipt["trace"] == stacked.receipt["trace"]
    assert foresee(experiment.assemble(arm(name, *few)))["bytes_up"] == inline.receipt["counts"]["bytes_up"]


def test_the_trace_says_who_sent_what_to_whom(tmp_path) -> None:
    trace = run(tmp_path, "gradient_tracking", "until.versions=2").trace
    sent, come = (trace[trace.kind == KINDS[kind]] for kind in (UPLOAD, ARRIVE))
    assert len(sent) == 2 * sum(1 for _ in range(8)) * 5  # each has five neighbours: 1, 2 and 4 ahead and 1, 2 behind
    assert set(sent.nbytes) == {2 * 4 * PARAMS}
    pairs = set(zip(sent.client, sent.peer, strict=True))
    assert pairs == {(b, a) for a, b in pairs}
    assert come.nbytes.sum() <= sent.nbytes.sum()


def test_one_global_merge_ends_all_distance(tmp_path) -> None:
    found = run(tmp_path, "gossip")
    last, before = found.metrics.iloc[-1], found.metrics.iloc[-2]
    assert last.consensus == 0 < before.consensus
    assert last.accuracy == last.merged_accuracy
    assert all((rows == rows[:1]).all() for rows in found.peers.values())


def test_the_merged_loss_of_a_convex_model_is_never_above_the_mean(tmp_path) -> None:
    """Jensen's inequality, at every measurement."""
    metrics = run(tmp_path, "gossip", "evaluate.every=1 min", merge="never").metrics
    assert len(metrics) > 8
    assert (metrics.merged_loss <= metrics.loss + 1e-6).all()


def test_measuring_often_changes_no_weight(tmp_path) -> None:
    often, seldom = (run(tmp_path, "gossip", f"evaluate.every={every}") for every in ("1 min", "5 h"))
    assert len(often.metrics) > 3 * len(seldom.metrics)
    assert often.receipt["digests"]["peers.safetensors"] == seldom.receipt["digests"]["peers.safetensors"]


def test_half_the_capacity_costs_time_and_changes_no_number(tmp_path) -> None:
    fast, slow = (run(tmp_path, "gossip", f"network.exponential.capacity={rate}") for rate in ("2 Mbit/s", "20 kbit/s"))
    assert fast.metrics.time_s.iloc[-1] < slow.metrics.time_s.iloc[-1]
    assert fast.receipt["digests"]["peers.safetensors"] == slow.receipt["digests"]["peers.safetensors"]
    assert fast.receipt["counts"]["bytes_up"] == slow.receipt["counts"]["bytes_up"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"aggregator": "fedavg"}, "aggregator and peers exclude each other"),
        ({"peers": "gosip"}, "there is no peers 'gosip' here; did you mean gossip"),
        ({"peers": {"gossip": {"mixing": PULL, "merge": "last"}}, "until": {"time": "1 h"}}, "set until.versions"),
        ({"network": "star", "peers": "dpsgd"}, "no links between clients; name another graph"),
        ({"network": {"ring": {"nodes": 5}}}, "5 nodes for 8 peers"),
        ({"peers": {"adpsgd": {"graph": "complete"}}}, "cycle of odd length"),
        ({"peers": {"relay_sgd": {"graph": "ring"}}}, "has a cycle"),
        ({"fleet": DIGITS["fleet"] | {"availability": {"markov": {"on": "1 h", "off": "1 h"}}}}, "fleet.availability"),
        ({"fleet": DIGITS["fleet"] | {"drop": 0.1}}, "fleet.drop: without a server everybody has to be there"),
        ({"edges": {"aggregator": "fedavg"}}, "edges: there are none without a server"),
        ({"links": {"outages": [{"between": [0, 1], "start": "1 s", "end": "2 s"}], "on_outage": "fail"}},
         "links.on_outage: peers need every message; take stall or reroute"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_does_not_fit_is_one_line(changes, words) -> None:
    with pytest.raises(ScenarioError, match=words) as error:
        experiment.assemble(*scenario.read(DIGITS | {"peers": "local"} | changes))
    assert len(str(error.value).splitlines()) == 1


RING = {"ring": {"capacity": "20 kbit/s", "latency": "10 ms"}}


@pytest.mark.parametrize(("on_outage", "rounds"), [("stall", 25), ("reroute", 25)])
def test_an_outage_costs_time_and_changes_no_number(tmp_path, on_outage, rounds) -> None:
    """2.6 kB take 1 s on a link; reroute sends them the other way round the ring."""
    network = f"network={json.dumps(RING)}"
    outage = {"between": [0, 1], "start": "10 s", "end": "2 h"}
    links = f"links={json.dumps({'outages': [outage], 'on_outage': on_outage})}"
    calm, rough = (run(tmp_path, "gossip", network, *more, mixing="metropolis") for more in ((), (links,)))
    assert rough.receipt["counts"]["versions"] == rounds
    assert calm.receipt["digests"]["peers.safetensors"] == rough.receipt["digests"]["peers.safetensors"]
    calm_end, rough_end = calm.metrics.time_s.iloc[-1], rough.metrics.time_s.iloc[-1]
    assert calm_end < 7200
    assert (rough_end > 7200) == (on_outage == "stall")
    assert rough_end > calm_end


def test_a_partition_holds_back_those_beyond_it(tmp_path) -> None:
    split = {"split": [[0, 1, 2, 3], [4, 5, 6, 7]], "start": "10 s", "end": "1 h"}
    links = f"links={json.dumps({'outages': [split]})}"
    trace = run(tmp_path, "gossip", f"network={json.dumps(RING)}", links, mixing="metropolis").trace
    come = trace[trace.kind == "arrive"]
    across = (come.client < 4) != (come.peer < 4)
    apart = come.time.between(12_000_000, 3_600_000_000 - 1)
    assert (across & ~apart).any()
    assert not (across & apart).any()


def test_each_training_of_a_peer_has_a_delay_of_its_own(tmp_path) -> None:
    trace = run(tmp_path, "local", "until.versions=6", "fleet.stragglers={lognormal: {sigma: 0.5}}").trace
    begun = trace[(trace.kind == "train") & (trace.client == 0)].time
    assert len(set(np.diff(begun))) == 5


def test_without_an_algorithm_there_is_no_scenario() -> None:
    with pytest.raises(ScenarioError, match="aggregator: is missing"):
        scenario.read(DIGITS)


def test_your_own_peers(tmp_path, monkeypatch) -> None:
    """The README's."""
    (tmp_path / "my_peers.py").write_text(python_file("my_peers.py"))
    monkeypatch.syspath_prepend(tmp_path)
    found = run(tmp_path / "out", "my_peers:Relay", "until.versions=3", stride=3)
    assert found.receipt["counts"] | {"bytes_up": 0} == {
        "versions": 3, "updates": 24, "lost": 0, "trained": 24, "bytes_down": 0, "bytes_up": 0}  # fmt: skip
    assert found.scenario["peers"] == {"my_peers:Relay": {"stride": 3}}
    order = found.trace[found.trace.kind == "train"].client.tolist()
    assert order == [3 * turn % 8 for turn in range(24)]
    assert json.loads((found.path / "receipt.json").read_text())["counts"]["bytes_up"] == 23 * 4 * PARAMS
