"""Clients that lie: what they say is what their papers say, and defences bear it."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch
from torch import Tensor
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.attacks.liars import Jury, Liars, Lying, drawn
from fedsim.attacks.lies import (
    LIES,
    ALittleIsEnough,
    FreeRider,
    Gaussian,
    InnerProduct,
    Known,
    MinMax,
    MinSum,
    Scaled,
    SignFlip,
    Sybils,
)
from fedsim.errors import ScenarioError
from fedsim.rng import stream
from fedsim.wire.codec import generator
from fedsim.work import LocalResult, Update

SIZE = 50
NEEDS = {"gaussian": {"sigma": 3.0}}


def honest(count: int = 8) -> Tensor:
    return torch.from_numpy(stream(7, "honest", count).standard_normal((count, SIZE))) + 1


def told(lie, rows: Tensor, liars: int = 2, version: int = 0) -> Tensor:
    own = torch.full((liars, rows.shape[1]), 0.5).double()
    return lie.told(own[0], Known(rows, own), version, generator(1, "lie"))


def test_they_say_what_their_papers_say() -> None:
    rows = honest()
    mean, deviation = rows.mean(dim=0), rows.std(dim=0, correction=0)
    torch.testing.assert_close(told(SignFlip(2.0), rows), torch.full((SIZE,), -1.0).double())
    torch.testing.assert_close(told(Scaled(10.0), rows), torch.full((SIZE,), 5.0).double())
    torch.testing.assert_close(told(InnerProduct(0.5), rows), -0.5 * mean)
    torch.testing.assert_close(told(ALittleIsEnough(1.5), rows), mean - 1.5 * deviation)
    noise = told(Gaussian(3.0), honest(4)[:, :1].expand(4, 20_000))
    assert float(noise.std()) == pytest.approx(3.0, rel=0.03)
    assert not told(FreeRider(), rows).any()
    faint = told(FreeRider(2.0, decay=1.5), honest(4)[:, :1].expand(4, 20_000), version=3)
    assert float(faint.std()) == pytest.approx(2.0 * 4**-1.5, rel=0.03)


def test_sybils_are_one() -> None:
    own = honest(3)
    one, other = (Sybils().told(own[place], Known(own[:0], own), 0, generator(1, place)) for place in (0, 1))
    torch.testing.assert_close(one, own.mean(dim=0))
    assert torch.equal(one, other)
    apart = [Sybils(0.1).told(own[place], Known(own[:0], own), 0, generator(1, place)) - one for place in (0, 1)]
    assert [float(each.norm()) for each in apart] == pytest.approx([0.1 * float(one.norm())] * 2)
    assert not torch.equal(*apart)


def test_a_little_is_enough_counts_its_supporters() -> None:
    """n = 50 with 12 liars: s = 26 - 12 = 14 of 38 honest ones, quantile 24 / 38."""
    assert ALittleIsEnough().deviations(honest=38, liars=12) == pytest.approx(NormalDist().inv_cdf(24 / 38))
    assert ALittleIsEnough().deviations(honest=9, liars=1) == 0


def test_min_max_and_min_sum_hide_among_the_honest_and_barely() -> None:
    rows = honest()
    apart = torch.cdist(rows, rows)
    lie = told(MinMax(), rows)
    assert float((rows - lie).norm(dim=1).max()) == pytest.approx(float(apart.max()), rel=1e-6)
    lie = told(MinSum(), rows)
    assert float((rows - lie).square().sum()) == pytest.approx(float(apart.square().sum(dim=1).max()), rel=1e-6)
    same = rows[:1].expand(5, SIZE)
    torch.testing.assert_close(told(MinMax(), same), rows[0])


def test_liars_are_drawn_and_strike_when_they_want_to() -> None:
    who = drawn(20, 0.3, seed=1)
    assert len(who) == 6
    assert who == drawn(20, 0.3, seed=1) != drawn(20, 0.3, seed=2)
    early, updates = (updates_of(version) for version in (4, 5))
    lying = Lying(Liars(frozenset({1}), since=5), SignFlip(), seed=1)
    assert lying(early) == early
    spoiled = lying(updates)
    assert [update.delta.tolist() for update in spoiled] == [[1.0] * 3, [-2.0] * 3, [3.0] * 3]
    assert [update.client for update in spoiled] == [0, 1, 2]
    assert lying(updates[1:2])[0].delta.tolist() == [-2.0] * 3
    hiding = Lying(Liars(frozenset({1})), ALittleIsEnough(), seed=1)
    assert hiding(updates[1:2]) == updates[1:2], "nobody to hide among"


def updates_of(version: int) -> list[Update]:
    numbers = [LocalResult(torch.full((3,), 1.0 + client), 0.5) for client in range(3)]
    return [Update(client, version, 10, 1, 1, each) for client, each in enumerate(numbers)]


def test_a_jury_counts_who_is_heard() -> None:
    """By hand: one of two honest updates is refused; a lie that is not finite, or counts nothing, is not heard."""
    jury = Jury(Liars(frozenset({1})), tallies := {})
    assert tallies == {"false_positives": 0.0, "lies_heard": 0.0}
    updates = updates_of(0)
    jury(updates, updates, torch.tensor([0.9, 0.1, 0.0]))
    assert tallies == {"false_positives": 0.5, "lies_heard": 0.0}
    jury(updates, updates, None)
    assert tallies == {"false_positives": 0.25, "lies_heard": 0.5}
    jury(updates, [updates[0], updates[2]], torch.tensor([0.5, 0.5]))
    assert tallies == {"false_positives": pytest.approx(1 / 6), "lies_heard": pytest.approx(1 / 3)}


DIGITS = {
    "seed": 3,
    "until": {"versions": 30},
    "data": {"digits": {"partition": "iid"}},
    "model": "logistic",
    "fleet": {"clients": 15, "devices": "fedscale"},
    "local": {"steps": 5, "batch": 16, "optimizer": {"sgd": {"lr": 0.2}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "1 h"},
}


def run(name: str | None, share: float = 0.2, **changes):
    liars = {} if name is None else {"adversaries": {"lie": {name: NEEDS.get(name, {})}, "share": share}}
    [arm] = scenario.read(DIGITS | liars | changes)
    simulation = experiment.assemble(arm).simulation(Recording())
    simulation.run()
    return simulation


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("aggregator", [{"fedavg": {"cohort": "all"}}, {"fedbuff": {"concurrency": 10, "goal": 6}}])
def test_lies_are_the_same_under_every_executor_and_cost_no_time(name, aggregator) -> None:
    found = [run(name, executor=kind, aggregator=aggregator) for kind in ("inline", "stacked", "null")]
    quiet = run(None, executor="null", aggregator=aggregator)
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert len({each.trace.digest() for each in (*found, quiet)}) == 1


@pytest.mark.parametrize("name", LIES)
def test_no_liars_no_lies(name) -> None:
    assert torch.equal(run(name, share=0.0).aggregator.params, run(None).aggregator.params)


def test_defences_bear_what_the_mean_does_not() -> None:
    def accuracy(name: str | None, **defence) -> float:
        return run(name, **defence).progress.rows[-1]["accuracy"]

    clean = accuracy(None)
    assert accuracy("gaussian") < clean - 0.3
    for defence in ({"trimmed_mean": {"liars": 3}}, {"krum": {"liars": 3, "keep": 6}}, "median", "geometric_median"):
        for name in LIES:
            assert accuracy(name, defence=defence) > clean - 0.06, (defence, name)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"adversaries": {"lie": "sign_flop", "share": 0.1}}, "did you mean sign_flip"),
     ({"adversaries": {"lie": "alie", "share": 1.5}}, "adversaries.share"),
     ({"adversaries": {"lie": "alie", "share": 0.1}, "aggregator": None, "peers": "dpsgd", "network": "ring"},
      "adversaries.lie: only peers that send each other models alone can lie"),
     ({"adversaries": {"lie": "alie", "share": 0.1}, "aggregator": None, "peers": "gossip", "network": "ring"},
      "adversaries.lie: peers do not know what honest ones say"),
     ({"adversaries": {"timing": "linger", "share": 0.1}, "aggregator": None, "peers": "gossip", "network": "ring"},
      "adversaries.timing: peers wait for whom they hear"),
     ({"adversaries": {"lie": "alie", "share": 0.1}, "wire": {"secure": {"bound": 1}},
       "aggregator": {"fedavg": {"cohort": 5, "weights": "uniform"}}}, "nobody can see what liars send")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(changes, sentence) -> None:
    changed = {key: value for key, value in (DIGITS | changes).items() if value is not None}
    with pytest.raises(ScenarioError, match=sentence):
        [experiment.assemble(arm) for arm in scenario.read(changed)]
