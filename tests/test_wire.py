"""Codecs in a scenario: what they cost on the links, what they leave of the algorithm, and what cannot be."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds import Recording

import fedsim
from fedsim import experiment, scenario
from fedsim.conduct import conduct, foresee
from fedsim.downlink import Downlink
from fedsim.errors import ScenarioError
from fedsim.trace import ARRIVE, TRAIN, Trace
from fedsim.vector import weighted_sum
from fedsim.wire import CODECS, Draw
from fedsim.wire.sending import Sending

DIGITS = {
    "seed": 3,
    "until": {"versions": 12},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.5}}}},
    "model": "logistic",
    "fleet": {"clients": 8, "devices": "fedscale"},
    "local": {"steps": 4, "batch": 16, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {"fedavg": {"cohort": 5}},
    "evaluate": {"every": "1 h"},
}
PARAMS = 650
NEEDS = {name: {"ratio": 0.25} for name in ("gaussian", "rademacher", "countsketch", "rand_k", "top_k")}
NEEDS |= {"srht": {"ratio": 0.5}}
LINEAR = [name for name, kind in CODECS.items() if getattr(kind, "linear", False) and name != "none"]


def arm(wire: dict | None, **changes) -> scenario.Arm:
    [only] = scenario.read(DIGITS | changes | ({} if wire is None else {"wire": wire}))
    return only


def simulation(wire: dict | None, **changes):
    """It has run."""
    found = experiment.assemble(arm(wire, **changes)).simulation(Recording())
    found.run()
    return found


def codec(name: str, **arguments) -> dict:
    return {name: NEEDS.get(name, {}) | arguments}


# The same, however it is computed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("aggregator", [{"fedavg": {"cohort": 5}}, {"fedbuff": {"concurrency": 5, "goal": 3}}])
def test_every_codec_under_every_executor(name, aggregator) -> None:
    found = {}
    for kind in ("null", "inline", "stacked"):
        run = simulation({"codec": codec(name)}, executor=kind, aggregator=aggregator)
        run.trace.flush()
        found[kind] = run
    assert found["null"].trace.rows == found["inline"].trace.rows == found["stacked"].trace.rows
    assert torch.equal(found["inline"].aggregator.params, found["stacked"].aggregator.params)
    assert found["null"].progress.up == found["stacked"].progress.up


@pytest.mark.parametrize("name", CODECS)
def test_messages_have_their_size_on_the_links(name) -> None:
    made = experiment.assemble(arm({"codec": codec(name)}))
    run = made.simulation(Recording())
    run.run()
    sent = {row[4] for row in run.trace.of(ARRIVE)}
    given = {"layout": made.layout} if name == "power_sgd" else {}
    assert sent == {CODECS[name](**NEEDS.get(name, {}), **given).nbytes(PARAMS)}
    assert {row[4] for row in run.trace.of(TRAIN)} == {4 * PARAMS}


def test_no_codec_is_no_wire() -> None:
    plain, none = simulation(None), simulation({"codec": "none"})
    assert torch.equal(plain.aggregator.params, none.aggregator.params)
    assert plain.trace.digest() == none.trace.digest()


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_learns(name, tmp_path) -> None:
    """With steps no longer than 1 / moment of the usual ones, as the README says."""
    shrink = {"gaussian": 0.2, "rademacher": 0.2, "countsketch": 0.2, "rand_k": 0.25, "srht": 0.4, "sign": 1.0}
    arguments = {"fedavg": {"cohort": 5, "lr": shrink.get(name, 1.0)}}
    found = conduct(experiment.assemble(arm({"codec": codec(name)}, aggregator=arguments, until={"versions": 60})),
                    tmp_path / "run")  # fmt: skip
    assert found.metrics.accuracy.iloc[-1] > 0.6
    assert found.metrics.loss.iloc[-1] < 0.75 * found.metrics.loss.iloc[0]


# The sketched federated algorithm -------------------------------------------------------------------------------------


def test_all_rows_of_srht_are_fedavg() -> None:
    """R^T R = I, up to rounding."""
    plain = simulation(None).aggregator.params
    sketched = simulation({"codec": codec("srht", ratio=1.0), "down": "step"}).aggregator.params
    assert float((plain - sketched).norm() / plain.norm()) < 1e-5


@pytest.mark.parametrize("name", LINEAR)
def test_clients_that_de_sketch_the_average_have_the_servers_model(name) -> None:
    """Every step is R_t^T of the mean of messages alone: a client that hears of the steps has the very same model."""
    made = experiment.assemble(arm({"codec": codec(name), "down": "step"}))
    run = made.simulation(Recording())
    messages: dict[int, dict[int, Tensor]] = {}
    sending = run.world.executor.train
    assert isinstance(sending, Sending)
    sending.overhear = lambda task, message, draw: messages.setdefault(task.version, {}).update(
        {task.client: message[0]}
    )
    steps = []
    step = run.aggregator.step

    def watch(updates) -> None:
        updates = list(updates)
        steps.append({update.client: update.examples for update in updates})
        step(updates)

    run.aggregator.step = watch
    run.run()
    params, rule = made.params.clone(), CODECS[name](**NEEDS.get(name, {}))
    for version, heard in enumerate(steps):
        total = sum(heard.values())
        mean = weighted_sum([messages[version][client] for client in sorted(heard)],
                            [heard[client] / total for client in sorted(heard)])  # fmt: skip
        params = params + rule.decode((mean,), PARAMS, Draw(3, version))
    assert float((params - run.aggregator.params).norm() / params.norm()) < 1e-5


def test_fixed_sketches_cannot_leave_their_range_and_fresh_ones_do() -> None:
    """w - w0 of a fixed R lies in the range of R^T: what is left of it beside that is rounding."""
    for fresh in (False, True):
        made = experiment.assemble(arm({"codec": codec("gaussian", ratio=0.1, fresh=fresh)}))
        run = made.simulation(Recording())
        run.run()
        moved = (run.aggregator.params - made.params).double()
        rule = CODECS["gaussian"](ratio=0.1, fresh=fresh)
        basis = torch.stack([rule.decode((unit,), PARAMS, Draw(3, 0)) for unit in torch.eye(65)]).double()
        inside = torch.linalg.lstsq(basis.T, moved).solution @ basis
        left = float((moved - inside).norm() / moved.norm())
        assert left < 1e-5 if not fresh else left > 0.5


def test_steps_are_cheaper_than_models_and_who_was_away_pays_for_what_it_missed() -> None:
    """By hand: every client downloads so many missed steps, or the model where that is less."""
    nbytes = CODECS["srht"](ratio=0.5).nbytes(PARAMS)
    for catch_up in ("cheapest", "replay", "fetch"):
        run = simulation({"codec": codec("srht"), "down": "step", "catch_up": catch_up})
        known = dict.fromkeys(range(8), 0)
        for _, _, client, version, sent, *_ in run.trace.of(TRAIN):
            missed = version - known[client]
            replayed, model = missed * nbytes, 4 * PARAMS
            wanted = {"replay": replayed, "cheapest": min(replayed, model), "fetch": model if missed > 1 else replayed}
            assert sent == wanted[catch_up]
            known[client] = version
        assert run.progress.down == sum(row[4] for row in run.trace.of(TRAIN))


def test_models_are_sent_where_steps_are_not() -> None:
    downlink = Downlink(model=100)
    assert [downlink.nbytes(0, version) for version in (0, 5)] == [100, 100]


# Error feedback -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["top_k", "sign", "power_sgd"])
def test_what_a_message_loses_is_in_the_next_ones(name) -> None:
    """All that has arrived from a client, and what it keeps, is all that it has changed."""
    made = experiment.assemble(arm({"codec": codec(name)}, aggregator={"fedavg": {"cohort": "all"}}))
    run = made.simulation(Recording())
    sending = run.world.executor.train
    changed, arrived = torch.zeros(PARAMS, dtype=torch.float64), torch.zeros(PARAMS, dtype=torch.float64)
    train = sending.train

    def watch(tasks):
        results = train(tasks)
        for task, result in zip(tasks, results, strict=True):
            changed.add_(result.delta if task.client == 2 else 0)
        return results

    sending.train = watch
    receive = run.aggregator.receive

    def hear(update):
        arrived.add_(update.delta if update.client == 2 else 0)
        return receive(update)

    run.aggregator.receive = hear
    run.run()
    left = run.kept[2].state.wire["residual"]
    assert float((changed - arrived - left).norm() / changed.norm()) < 1e-5


def test_feedback_can_be_left_out() -> None:
    run = simulation({"codec": codec("top_k", feedback=False)})
    assert not run.keeps
    assert not torch.equal(run.aggregator.params, simulation({"codec": codec("top_k")}).aggregator.params)


# What does not fit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"wire": {"codec": "qsgd", "down": "step"}}, "steps can be told of only where messages can be added up"),
     ({"wire": {"codec": codec("srht"), "down": "step"}, "aggregator": "fedbuff"}, "wire.down: FedBuff does not step"),
     ({"wire": {"codec": codec("srht"), "down": "step"}, "aggregator": "fedadam"}, "wire.down: FedAdam does not step"),
     ({"wire": {"codec": codec("srht"), "down": "step"}, "aggregator": "fedvarp"}, "wire.down: FedVARP does not step"),
     ({"wire": {"codec": {"srht": {"ratio": 0}}}}, "wire.codec.srht.ratio"),
     ({"wire": {"codec": {"srht": {"ratoi": 0.5}}}}, "did you mean ratio"),
     ({"wire": {"codecs": "srht"}}, "there is no key 'codecs' here; did you mean codec"),
     ({"wire": {"noise": {"multiplier": 1}}}, "wire.noise: without a clip"),
     ({"wire": {"clip": {"flat": {"norm": 1, "message": True}}, "codec": "qsgd"}}, "wire.clip: this codec's messages"),
     ({"wire": {"clip": 1, "noise": {"multiplier": 1, "by": "each"}, "codec": codec("top_k")}},
      "wire.codec: what error feedback keeps back"),
     ({"wire": {"clip": 1, "noise": {"multiplier": 1}}}, "wire.noise: FedAvg does not count a known number"),
     ({"wire": {"codec": codec("srht")}, "network": {"tree": {"edges": 2}}, "edges": {"aggregator": "fedavg"}},
      "wire: edges sum up"),
     ({"wire": {}, "aggregator": None, "peers": "dpsgd", "network": "ring"}, "wire: peers send whole models")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(changes, sentence) -> None:
    changed = {key: value for key, value in (DIGITS | changes).items() if value is not None}
    with pytest.raises(ScenarioError, match=sentence):
        [experiment.assemble(each) for each in scenario.read(changed)]


def test_foreseeing_is_running() -> None:
    made = experiment.assemble(arm({"codec": codec("srht"), "down": "step"}))
    cost = foresee(made)
    run = made.simulation(Trace())
    run.run()
    assert (cost["bytes_up"], cost["bytes_down"]) == (run.progress.up, run.progress.down)


def test_a_resolved_scenario_is_the_same_scenario(tmp_path) -> None:
    wire = {"codec": codec("srht"), "down": "step", "clip": 1.5, "noise": {"multiplier": 0.1, "by": "clients"}}
    aggregator = {"fedavg": {"cohort": 5, "weights": "uniform"}}
    found = fedsim.run(DIGITS | {"wire": wire, "aggregator": aggregator}, out=tmp_path, picture=False)
    again = fedsim.run(json.loads(json.dumps(found.scenario)), out=tmp_path / "again", picture=False)
    assert found.receipt["digests"] == again.receipt["digests"]
    assert found.scenario["wire"]["clip"] == {"flat": {"norm": 1.5, "message": False}}
    assert np.isfinite(found.metrics.loss).all()
