"""Conflicting directions become one: by their papers' rules, by hand and against searches."""

from __future__ import annotations

from math import acos, cos, pi, sin

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.combiners import COMBINERS, CAGrad, GCond, Orthogonal, PCGrad
from fedsim.errors import ScenarioError
from fedsim.rng import stream

FRESH = {"pcgrad": lambda: PCGrad(seed=1), "cagrad": lambda: CAGrad(0.5), "gcond": lambda: GCond(),
         "orthogonal": lambda: Orthogonal()}  # fmt: skip


def directions(*name: object, count: int = 4, size: int = 6) -> Tensor:
    return torch.from_numpy(stream(9, "directions", *name).standard_normal((count, size)))


def pair(cosine: float, length: float = 1.0) -> Tensor:
    """Two directions with this cosine; the second one is so long."""
    angle = acos(cosine)
    return torch.tensor([[1.0, 0.0, 0.0], [length * cos(angle), length * sin(angle), 0.0]]).double()


def test_every_combiner_is_tried_here() -> None:
    assert set(FRESH) == set(COMBINERS)


@pytest.mark.parametrize("name", FRESH)
def test_alone_or_alike_they_are_what_they_are(name) -> None:
    row = directions(count=1)
    torch.testing.assert_close(GCond(momentum=0.0).combine(row, [3], 0, {}), row[0])
    torch.testing.assert_close(PCGrad().combine(row, [3], 0, {}), row[0])
    same = row.expand(3, -1)
    found = FRESH[name]().combine(same, [0, 1, 2], 0, {})
    scale = {"cagrad": 1.5, "orthogonal": 2 / 3}.get(name, 1.0)  # of three the second yields to the first
    torch.testing.assert_close(found, scale * row[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["pcgrad", "gcond"])
def test_without_a_conflict_it_is_the_mean(name) -> None:
    rows = directions("none").abs()
    torch.testing.assert_close(FRESH[name]().combine(rows, range(4), 0, {}), rows.mean(dim=0))


@pytest.mark.parametrize("name", FRESH)
def test_order_does_not_count(name) -> None:
    rows = directions("order")
    places = [2, 0, 3, 1]
    found, turned = (FRESH[name]().combine(rows[order], order, 0, {}) for order in ([0, 1, 2, 3], places))
    torch.testing.assert_close(turned, found, rtol=1e-6, atol=1e-8)


def test_of_two_each_loses_what_points_against_the_other() -> None:
    rows = pair(-0.5, length=2.0)
    first = rows[0] - (rows[0] @ rows[1]) / (rows[1] @ rows[1]) * rows[1]
    second = rows[1] - (rows[0] @ rows[1]) / (rows[0] @ rows[0]) * rows[0]
    torch.testing.assert_close(PCGrad().combine(rows, [0, 1], 0, {}), (first + second) / 2)
    assert float(first @ rows[1]) == pytest.approx(0, abs=1e-12)


def test_surgery_is_its_paper() -> None:
    """Algorithm 1 by loops: a direction as it has become against the others as they were, in the drawn order."""
    rows = directions("surgery", count=5).numpy()
    total = np.zeros(6)
    for place in range(5):
        own = rows[place].copy()
        for other in stream(1, "pcgrad", 7, 10 + place).permutation(5):
            if other != place and own @ rows[other] < 0:
                own -= own @ rows[other] / (rows[other] @ rows[other]) * rows[other]
        total += own
    found = PCGrad(seed=1).combine(torch.from_numpy(rows), [10, 11, 12, 13, 14], 7, {})
    np.testing.assert_allclose(found, total / 5, rtol=1e-10)


@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
def test_nothing_in_the_ball_agrees_better_with_its_worst(c) -> None:
    """The primal problem, by search: max over d with |d - g_0| <= c |g_0| of min_i g_i . d."""
    for turn in range(4):
        rows = directions("ball", turn)
        mean = rows.mean(dim=0)
        found = CAGrad(c).combine(rows, range(4), 0, {})
        assert float((found - mean).norm()) == pytest.approx(c * float(mean.norm()), rel=1e-6)
        best = float((rows @ found).min())
        draws = torch.from_numpy(stream(2, turn).standard_normal((20_000, 6)))
        tried = mean + c * mean.norm() * draws / draws.norm(dim=1, keepdim=True)
        near = found + 0.05 * c * mean.norm() * draws / draws.norm(dim=1, keepdim=True)
        near = mean + (near - mean) * (c * mean.norm() / (near - mean).norm(dim=1, keepdim=True)).clamp_max(1.0)
        for others in (tried, near):
            assert float((others @ rows.T).amin(dim=1).max()) <= best + 1e-6 * float(rows.norm())
    torch.testing.assert_close(CAGrad(0.0).combine(rows, range(4), 0, {}), mean)


def test_the_conductor_bends_by_the_angle_of_the_conflict() -> None:
    """Section (d) of its notes: -0.25 is half-way (0.293), main is PCGrad, critical leaves the winner as it was."""
    conductor = GCond()
    assert conductor.angle(-1e-12) == pytest.approx(0, abs=1e-6)
    assert conductor.angle(-0.5) == pytest.approx(pi / 2)
    assert conductor.angle(-0.8) == conductor.angle(-1.0) == pi
    assert conductor.angle(-0.65) == pytest.approx(pi / 2 * (1 + 0.25))
    rows = pair(-0.25)
    before = rows.clone()
    conductor.project(rows, 0, 1, conductor.angle(-0.25))
    assert float(rows[0] @ before[1]) == pytest.approx(-0.25 * (1 - sin(pi / 4)))
    assert float(rows[1] @ before[0]) == pytest.approx(-0.25 * (1 - sin(pi / 4))), "of what the winner was"
    rows = pair(-0.5)
    before = rows.clone()
    conductor.project(rows, 0, 1, conductor.angle(-0.5))
    assert float(rows[0] @ before[1]) == pytest.approx(0, abs=1e-12)
    assert float(rows[1] @ before[0]) == pytest.approx(0, abs=1e-12)
    rows = pair(-0.9)
    before = rows.clone()
    conductor.project(rows, 0, 1, conductor.angle(-0.9))
    torch.testing.assert_close(rows[0], before[0])
    assert float(rows[1] @ before[0]) == pytest.approx(0, abs=1e-12)


def test_the_stronger_one_wins_but_not_for_ever() -> None:
    """Both are new, so that strength decides: 3 over 1; the fourth time the other one does."""
    conductor, rows = GCond(), pair(-0.9, length=3.0)
    memory = {"norm 5": torch.tensor(1.0), "norm 6": torch.tensor(1.0)}
    steady = memory | {"last 5": rows[0]}
    assert [conductor.arbitrated(rows, [5, 6], (0, 1), memory) for _ in range(4)] == [(1, 0)] * 3 + [(0, 1)]
    assert memory["winners"].tolist() == [6, 6, 5]
    assert conductor.arbitrated(rows, [5, 6], (0, 1), steady) == (0, 1), "steadiness counts four times as much"


def test_momentum_is_corrected_for_its_start() -> None:
    rows = directions("momentum").abs()
    conductor, memory = GCond(momentum=0.9), {}
    torch.testing.assert_close(conductor.combine(rows, range(4), 0, memory), rows.mean(dim=0))
    first = dict(memory)
    second = conductor.combine(3 * rows, range(4), 1, memory)
    torch.testing.assert_close(first["speed"], 0.1 * rows.mean(dim=0))
    expected = (0.9 * 0.1 * 1 + 0.1 * 3) / (1 - 0.81)
    torch.testing.assert_close(second, expected * rows.mean(dim=0))


# In a scenario --------------------------------------------------------------------------------------------------------

DIGITS = {
    "seed": 3,
    "until": {"versions": 20},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.2}}}},
    "model": "logistic",
    "fleet": {"clients": 8, "devices": "fedscale"},
    "local": {"steps": 5, "batch": 16, "optimizer": {"sgd": {"lr": 0.2}}},
    "evaluate": {"every": "1 h"},
}


def run(combiner, **changes):
    [arm] = scenario.read(DIGITS | {"aggregator": {"fedavg": {"cohort": "all", "combiner": combiner}}} | changes)
    simulation = experiment.assemble(arm).simulation(Recording())
    simulation.run()
    return simulation


@pytest.mark.parametrize("name", COMBINERS)
def test_clients_updates_are_combined_whoever_computes_them(name) -> None:
    found = [run(name, executor=kind) for kind in ("inline", "stacked", "null")]
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert found[0].trace.digest() == found[1].trace.digest() == found[2].trace.digest()
    assert found[0].progress.rows[-1]["accuracy"] > 0.8
    assert not torch.equal(found[0].aggregator.params, run(None).aggregator.params)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"defence": "median"}, "FedAvg does not take the mean of alike updates"),
     ({"aggregator": {"fedavg": {"combiner": "pcgrd"}}}, "did you mean pcgrad"),
     ({"aggregator": {"fedavg": {"combiner": {"gcond": {"main": -0.9}}}}}, "critical has to lie below main"),
     ({"wire": {"codec": {"srht": {"ratio": 0.5}}, "down": "step"}}, "does not step along a fixed combination")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        run("pcgrad", **changes)
