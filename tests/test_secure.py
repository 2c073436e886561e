"""Secure aggregation in a scenario: what it costs, what the server gets, and what happens when clients drop out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.errors import ScenarioError, Stalled
from fedsim.rng import key
from fedsim.trace import ARRIVE, LOST, START, VERSION
from fedsim.wire.masked import Masked
from fedsim.wire.masking import Client, Server, traffic

DIGITS = {
    "seed": 3,
    "until": {"versions": 6},
    "data": {"digits": {"partition": "iid"}},
    "model": "logistic",
    "fleet": {"clients": 8, "devices": {"constant": {"per_example": "1 ms", "down": "1 MB/s", "up": "1 MB/s"}}},
    "network": {"star": {"latency": "10 ms", "server_up": "unlimited", "server_down": "unlimited"}},
    "local": {"steps": 2, "batch": 8, "optimizer": {"sgd": {"lr": 0.2}}},
    "aggregator": {"fedavg": {"cohort": 5, "weights": "uniform"}},
    "evaluate": {"every": "1 h"},
}
SECURE = {"secure": {"bound": 1.0, "bits": 20}}
FAILING = {**DIGITS["fleet"], "drop": {"during": 0.15, "recovery": "2 s"}}


def run(wire: dict | None, **changes):
    [arm] = scenario.read(DIGITS | changes | ({} if wire is None else {"wire": wire}))
    simulation = experiment.assemble(arm).simulation(Recording())
    simulation.run()
    return simulation


def test_the_model_is_that_of_plain_rounds_but_for_rounding() -> None:
    plain, secure = run(None), run(SECURE)
    step = secure.wire.codec.rule.step
    assert float((plain.aggregator.params - secure.aggregator.params).abs().max()) < 6 * step
    assert secure.version == plain.version == 6


def test_a_round_costs_four_steps() -> None:
    """By hand, the first: everybody is alike, and links have 1 MB/s each way and 10 ms of latency."""
    found = run(SECURE)
    size = found.wire.codec.nbytes(650)
    costs = traffic(size, 5, 5, 5)
    up, down = sum(cost.up for cost in costs.values()), sum(cost.down for cost in costs.values()) + 4 * 650
    moved = next(row[0] for row in found.trace.of(VERSION))
    training, latencies = 16_000, 8 * 10_000  # of four messages up, and four down
    assert moved == pytest.approx(up + down + training + latencies, abs=10)
    assert found.progress.up == 5 * 6 * up
    assert found.progress.down == 5 * 6 * down
    assert len(found.trace.of(ARRIVE)) == 30


def test_it_is_the_same_under_every_executor() -> None:
    found = [run(SECURE, executor=kind, fleet=FAILING) for kind in ("null", "inline", "stacked")]
    for each in found:
        each.trace.flush()
    assert found[0].trace.rows == found[1].trace.rows == found[2].trace.rows
    assert torch.equal(found[1].aggregator.params, found[2].aggregator.params)


def test_the_server_hears_of_all_that_are_left_at_once() -> None:
    found = run(SECURE, fleet=FAILING, until={"versions": 20})
    lost = found.trace.of(LOST)
    assert lost, "somebody has to fail here"
    for version in range(20):
        times = {row[0] for row in found.trace.of(ARRIVE) if row[3] == version}
        assert len(times) == 1
    starts, ends = len(found.trace.of(START)), len(found.trace.of(ARRIVE)) + len(lost)
    assert 0 <= starts - ends <= len(found.jobs)


def test_what_the_real_protocol_yields_is_the_sum_that_the_server_steps_along() -> None:
    """Keys, shares, masks and dropouts for real: the same whole numbers, for every round of a run with failures."""
    found = run(SECURE, fleet=FAILING, until={"versions": 4})
    again = experiment.assemble(*scenario.read(DIGITS | {"wire": SECURE, "fleet": FAILING, "until": {"versions": 4}}))
    twin, messages, checked = again.simulation(Recording()), {}, []
    assert isinstance(twin.wire.codec, Masked)
    twin.world.executor.train.overhear = lambda task, message, draw: messages.update({task.client: message[0]})
    deliver = twin.deliver

    def watch() -> None:
        members, inputs = sorted(twin.members), sorted(twin.inputs)
        for client in inputs:
            _ = twin.inputs[client].delta
        words = {client: messages[client].long().numpy().view("uint64") for client in inputs}
        checked.append(np.array_equal(masked_sum(members, words), modular_sum(words)))
        deliver()

    twin.deliver = watch
    twin.run()
    assert checked == [True] * 4
    assert torch.equal(found.aggregator.params, twin.aggregator.params)


def modular_sum(words: dict[int, np.ndarray]) -> np.ndarray:
    return np.sum(list(words.values()), axis=0, dtype=np.uint64) % 2**32


def masked_sum(members: list[int], words: dict[int, np.ndarray]) -> np.ndarray:
    """By the protocol, in which those without words drop out after they have shared their keys."""
    server, clients = Server(3, 4), [Client(name, 3, 4, key(1, name)) for name in members]
    roster = server.roster([client.advertise_keys() for client in clients])
    parcels = server.forward([client.share_keys(roster) for client in clients])
    alive = [client for client in clients if client.id in words]
    inputs = [client.masked_input(parcels[client.id], words[client.id]) for client in alive]
    survivors = server.survivors(inputs)
    return server.total([client.unmask(survivors) for client in alive])


def test_below_the_threshold_a_round_comes_to_nothing() -> None:
    """Then nobody is broken by it: who was left can be asked at once."""
    fleet = {**DIGITS["fleet"], "drop": {"during": 0.5, "recovery": "1 s"}}
    found = run({"secure": {"bound": 1.0, "threshold": 0.9}}, fleet=fleet, until={"versions": 2})
    given_up = [row for row in found.trace.of(LOST) if row[0] in {r[0] for r in found.trace.of(START)}]
    assert given_up
    assert found.version == 2
    with pytest.raises(Stalled, match="led to no server step"):
        run({"secure": {"bound": 1.0, "threshold": 1.0}}, fleet={**DIGITS["fleet"], "drop": {"during": 1.0}})


def test_sketches_can_be_summed_under_masks_and_clients_can_add_their_shares_of_noise() -> None:
    wire = {**SECURE, "codec": {"srht": {"ratio": 0.5}}, "clip": 0.5, "noise": {"multiplier": 0.5, "by": "clients"}}
    found, plain = run(wire), run({key: value for key, value in wire.items() if key != "secure"})
    assert float((plain.aggregator.params - found.aggregator.params).abs().max()) < 1e-3
    assert found.progress.up < run({**wire, "codec": "none"}).progress.up


def test_who_is_alone_is_not_heard() -> None:
    with pytest.raises(Stalled, match="led to no server step"):
        run(SECURE, aggregator={"fedavg": {"cohort": 1, "weights": "uniform"}})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"aggregator": "fedavg"}, "take a linear aggregator with weights: uniform or expected"),
     ({"aggregator": "fedbuff"}, "take a linear aggregator"),
     ({"aggregator": {"fedavg": {"cohort": 5, "goal": 3, "weights": "uniform"}}}, "leave out goal and deadline"),
     ({"fleet": {**DIGITS["fleet"], "availability": {"markov": {"on": "1 h", "off": "1 h"}}}}, "not come and go"),
     ({"wire": {**SECURE, "codec": "qsgd"}}, "sums can be taken of linear codecs"),
     ({"wire": {**SECURE, "clip": {"flat": {"norm": 1.0, "message": True}}}}, "clip updates, not messages"),
     ({"wire": {**SECURE, "clip": 1.0, "noise": {"multiplier": 1.0, "by": "server"}}}, "take by: clients"),
     ({"wire": {"secure": {"bound": 0}}}, "wire.secure.bound"),
     ({"wire": {"secure": {"bound": 1, "bits": 60}}}, "wire.secure.bits")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        [experiment.assemble(arm) for arm in scenario.read({**DIGITS, "wire": SECURE, **changes})]


def test_the_scenario_resolves() -> None:
    [arm] = scenario.read(DIGITS | {"wire": SECURE})
    [again] = scenario.read(json.loads(json.dumps(arm.resolved)))
    assert again.digest == arm.digest
