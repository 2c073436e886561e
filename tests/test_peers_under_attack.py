"""Peers that lie about their models, and peers that hold on to their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.attacks.lies import LIES
from fedsim.defences.centres import SelfCentredClipping
from fedsim.defences.coordinates import Median
from fedsim.rng import stream

SIZE = 5


def models(count: int, *name: object) -> list[Tensor]:
    return list(torch.from_numpy(stream(8, "models", *name).standard_normal((count, SIZE))))


def test_differences_from_the_own_model_are_shortened() -> None:
    """The paper's rule by loops."""
    own, *heard = models(5)
    weights, radius = [0.3, 0.2, 0.1, 0.15], 1.5
    expected = own.numpy().copy()
    for model, weight in zip(heard, weights, strict=True):
        away = (model - own).numpy()
        expected += weight * away * min(1.0, radius / np.linalg.norm(away))
    np.testing.assert_allclose(SelfCentredClipping(radius).around(own, heard, weights), expected, rtol=1e-12)


def test_the_radius_of_the_theorem() -> None:
    """By hand: neighbours 1, 2 and 10 away weigh 0.2 each, liars' weight 0.2: tau^2 = 0.2 (1 + 4) / 0.2."""
    own = torch.zeros(SIZE).double()
    heard = [torch.eye(SIZE)[0].double() * length for length in (1.0, -2.0, 10.0)]
    found = SelfCentredClipping(weight=0.2).around(own, heard, [0.2] * 3)
    assert found.tolist() == pytest.approx([0.2 * (1 - 2 + 5**0.5), 0, 0, 0, 0])


@pytest.mark.parametrize("lie", [1e9, float("nan"), float("inf")])
def test_liars_cannot_drag_a_peer_away(lie) -> None:
    own, *near = models(5)
    weights = [0.2] * 5
    calm = SelfCentredClipping(weight=0.2).around(own, [*near, own], weights)
    found = SelfCentredClipping(weight=0.2).around(own, [*near, torch.full((SIZE,), lie).double()], weights)
    spread = max(float((model - own).norm()) for model in near)
    assert bool(found.isfinite().all())
    assert float((found - calm).norm()) <= 0.2 * 2 * spread + 1e-9
    bound = SelfCentredClipping(0.5).around(own, [torch.full((SIZE,), lie).double()], [0.5])
    assert float((bound - own).norm()) <= 0.25 + 1e-12


def test_where_all_are_near_it_is_plain_mixing_and_the_origin_does_not_count() -> None:
    own, *heard = models(4)
    weights = [0.25] * 3
    mixed = 0.25 * (own + sum(heard))
    torch.testing.assert_close(SelfCentredClipping(1e9).around(own, heard, weights), mixed)
    shifted = SelfCentredClipping(0.7).around(own + 5, [model + 5 for model in heard], weights)
    torch.testing.assert_close(shifted, SelfCentredClipping(0.7).around(own, heard, weights) + 5)
    swapped = SelfCentredClipping(0.7).around(own, heard[::-1], weights)
    torch.testing.assert_close(swapped, SelfCentredClipping(0.7).around(own, heard, weights))


def test_other_rules_take_the_neighbourhood_for_alike() -> None:
    own, *heard = models(5)
    assert torch.equal(Median().around(own, heard, [0.1] * 4), Median().combine([own, *heard]).vector)


# In a scenario --------------------------------------------------------------------------------------------------------

DIGITS = {
    "seed": 3,
    "until": {"versions": 25},
    "data": {"digits": {"partition": "iid"}},
    "model": "logistic",
    "fleet": {"clients": 12, "devices": {"linear": {"slowest": "1 s", "fastest": "300 ms"}}},
    "network": "complete",
    "local": {"steps": 5, "batch": 16, "optimizer": {"sgd": {"lr": 0.2}}},
    "peers": "gossip",
    "evaluate": {"every": "1 h"},
}
ALONE = [name for name, lie in LIES.items() if lie.alone]
NEEDS = {"gaussian": {"sigma": 3.0}}


def run(lie: str | None = None, **changes):
    liars = {"adversaries": {"lie": {lie: NEEDS.get(lie, {})}, "share": 0.2}} if lie else {}
    [arm] = scenario.read(DIGITS | liars | changes)
    made = experiment.assemble(arm)
    simulation = made.simulation(Recording())
    simulation.run()
    return simulation, made


def last(lie: str | None = None, **changes) -> dict:
    return run(lie, **changes)[0].progress.rows[-1]


@pytest.mark.parametrize("lie", ALONE)
@pytest.mark.parametrize("defence", [None, "self_centred_clipping", {"trimmed_mean": {"liars": 2}}])
def test_it_is_the_same_under_every_executor_and_costs_no_time(lie, defence) -> None:
    changes = {"until": {"versions": 4}, "defence": defence}
    found = [run(lie, executor=kind, **changes)[0] for kind in ("inline", "stacked", "null")]
    assert all(torch.equal(one, other) for one, other in zip(found[0].params, found[1].params, strict=True))
    quiet, _ = run(executor="null", until={"versions": 4})
    assert len({each.trace.digest() for each in (*found, quiet)}) == 1


def test_honest_peers_bear_liars_if_they_hold_on_to_their_models() -> None:
    clean = last()["accuracy"]
    assert last("gaussian")["accuracy"] < clean - 0.3
    for lie in ALONE:
        for defence in ("self_centred_clipping", {"trimmed_mean": {"liars": 2}}):
            assert last(lie, defence=defence)["accuracy"] > clean - 0.06, (lie, defence)


def test_metrics_are_those_of_honest_peers() -> None:
    """All but two of twelve; the merged model is theirs too."""
    evaluate = {"every": "1 h", "clients": True}
    simulation, made = run("scaled", evaluate=evaluate, until={"versions": 3})
    who = made.hostility.liars.who
    honest = [params for name, params in enumerate(simulation.params) if name not in who]
    table = simulation.progress.clients[-1]
    assert sorted(table["client"]) == sorted(set(range(12)) - who)
    found = [made.evaluator(params).metrics["accuracy"] for params in honest]
    assert simulation.progress.rows[-1]["accuracy"] == pytest.approx(np.mean(found))
    merged = made.evaluator(torch.stack(honest).double().mean(dim=0).float()).metrics["accuracy"]
    assert simulation.progress.rows[-1]["merged_accuracy"] == pytest.approx(merged, abs=0.003)


def test_peers_sleep_before_they_strike() -> None:
    """A lie from round 3 on changes nothing in three rounds, and something in four."""
    for rounds, same in ((3, True), (4, False)):
        changes = {"until": {"versions": rounds}}
        late = {"lie": {"scaled": {"factor": 5.0}}, "share": 0.2, "since": 3}
        lying, honest = run(**changes, adversaries=late)[0], run(**changes)[0]
        pairs = zip(lying.params, honest.params, strict=True)
        assert all(torch.equal(one, other) for one, other in pairs) == same


def test_poison_and_pace_work_among_peers() -> None:
    poisoned = last(adversaries={"poison": "backdoor", "share": 0.3, "timing": {"pace": {"factor": 3}}})
    assert poisoned["attack_success"] > 0.5
    assert poisoned["time_s"] > 1.5 * last()["time_s"]
