"""Robust ways to combine updates, by the laws of their table: nobody's order, place or lies count."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.defences import DEFENCES
from fedsim.defences.before import Bucketing, NearestNeighbourMixing
from fedsim.defences.centres import CentredClipping, GeometricMedian, NormBound
from fedsim.defences.coordinates import Median, TrimmedMean
from fedsim.defences.krum import Bulyan, Krum
from fedsim.errors import RunFailed, ScenarioError
from fedsim.rng import stream

SIZE, HONEST, LIARS = 6, 9, 2
TABLE = {
    "median": Median(LIARS),
    "trimmed_mean": TrimmedMean(LIARS),
    "krum": Krum(LIARS),
    "multi-krum": Krum(LIARS, keep=4),
    "bulyan": Bulyan(LIARS),
    "geometric_median": GeometricMedian(LIARS),
    "centred_clipping": CentredClipping(2.0, LIARS),
    "norm_bound": NormBound(2.0),
    "nearest_neighbour_mixing": NearestNeighbourMixing(TrimmedMean(LIARS), LIARS),
    "bucketing": Bucketing(Median(LIARS), size=2),
}
EVERY = pytest.mark.parametrize("defence", TABLE.values(), ids=TABLE.keys())


def honest(*name: object, count: int = HONEST + LIARS) -> list[Tensor]:
    rows = stream(6, "honest", *name).standard_normal((count, SIZE))
    return list(torch.from_numpy(rows + 3).double())


def test_every_defence_is_in_the_table() -> None:
    assert {type(defence) for defence in TABLE.values()} == set(DEFENCES.values())


@EVERY
def test_order_does_not_count(defence) -> None:
    rows = honest()
    found = defence.combine(rows)
    for turn in range(5):
        order = stream(1, turn).permutation(len(rows))
        torch.testing.assert_close(defence.combine([rows[place] for place in order]), found, rtol=1e-9, atol=1e-9)


@EVERY
def test_the_origin_does_not_count(defence) -> None:
    """But for a bound on norms, which is a bound on distances from it."""
    if isinstance(defence, NormBound):
        return
    rows, shift = honest(), torch.arange(SIZE).double() * 10
    moved = defence.combine([row + shift for row in rows])
    torch.testing.assert_close(moved, defence.combine(rows) + shift, rtol=1e-6, atol=1e-6)


@EVERY
def test_equals_are_a_fixed_point(defence) -> None:
    row = torch.arange(SIZE).double() / 10
    torch.testing.assert_close(defence.combine([row] * 11), row)
    assert defence.combine([row.float()] * 11).dtype == torch.float32


@EVERY
@pytest.mark.parametrize("lie", [1e3, -1e12, float("nan"), float("inf"), -float("inf")])
def test_liars_cannot_drag_it_away(defence, lie) -> None:
    """However large: it stays within twice the honest ones' spread of their mean."""
    rows = honest(count=HONEST)
    mean = torch.stack(rows).mean(dim=0)
    spread = max(float((row - mean).norm()) for row in rows)
    liars = [torch.full((SIZE,), lie).double(), torch.full((SIZE,), lie).double() * torch.tensor([1, -1] * 3)]
    found = defence.combine([*rows[:4], liars[0], *rows[4:], liars[1]])
    assert bool(found.isfinite().all())
    bound = 2 * spread if not isinstance(defence, NormBound) else 2.0 + float(mean.norm())
    assert float((found - mean).norm()) <= bound


def test_where_nobody_lies_they_are_the_mean() -> None:
    rows = honest(count=7)
    mean = torch.stack(rows).mean(dim=0)
    for defence in (
        TrimmedMean(0), Krum(0, keep=7), CentredClipping(1e9), NormBound(1e9), Bucketing(Median(), size=7),
        NearestNeighbourMixing(Krum(0), 0),
    ):  # fmt: skip
        torch.testing.assert_close(defence.combine(rows), mean)


# Against slow references ----------------------------------------------------------------------------------------------


def naive_krum(rows: list[np.ndarray], liars: int) -> list[float]:
    """Scores by loops."""
    found = []
    for place, row in enumerate(rows):
        apart = sorted(float(((row - other) ** 2).sum()) for at, other in enumerate(rows) if at != place)
        found.append(sum(apart[: max(1, len(rows) - liars - 2)]))
    return found


@pytest.mark.parametrize("keep", [1, 3])
def test_krum_is_its_paper(keep) -> None:
    for turn in range(10):
        rows = honest("krum", turn)
        scores = naive_krum([row.numpy() for row in rows], LIARS)
        chosen = np.argsort(scores, kind="stable")[:keep]
        expected = np.mean([rows[place].numpy() for place in chosen], axis=0)
        np.testing.assert_allclose(Krum(LIARS, keep).combine(rows), expected, rtol=1e-9)


def test_bulyan_is_its_paper() -> None:
    for turn in range(5):
        rows = [row.numpy() for row in honest("bulyan", turn)]
        left, chosen = list(range(len(rows))), []
        while len(chosen) < len(rows) - 2 * LIARS:
            scores = naive_krum([rows[place] for place in left], LIARS) if len(left) > 1 else [0.0]
            away = [np.linalg.norm(rows[place] - np.median([rows[each] for each in left], axis=0)) for place in left]
            best = min(range(len(left)), key=lambda at, s=scores, a=away: (round(s[at], 9), a[at]))
            chosen.append(left.pop(best))
        picked = np.stack([rows[place] for place in chosen])
        expected = np.empty(SIZE)
        for column in range(SIZE):
            values = picked[:, column]
            near = np.argsort(np.abs(values - np.median(values)), kind="stable")[: len(chosen) - 2 * LIARS]
            expected[column] = values[near].mean()
        found = Bulyan(LIARS).combine([torch.from_numpy(row) for row in rows])
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_coordinates_are_numpys_and_scipys() -> None:
    for count in (10, 11):
        rows = honest("coordinates", count=count)
        stacked = np.stack([row.numpy() for row in rows])
        np.testing.assert_allclose(Median().combine(rows), np.median(stacked, axis=0), rtol=1e-12)
        trimmed = np.sort(stacked, axis=0)[LIARS:-LIARS].mean(axis=0)
        np.testing.assert_allclose(TrimmedMean(LIARS).combine(rows), trimmed, rtol=1e-12)


def test_no_point_has_less_distance_to_all_than_the_geometric_median() -> None:
    rows = honest("median")
    stacked, found = torch.stack(rows), GeometricMedian().combine(rows)
    least = float((stacked - found).norm(dim=1).sum())
    for turn in range(200):
        near = found + 10.0 ** -(turn % 5) * torch.from_numpy(stream(2, turn).standard_normal(SIZE))
        assert float((stacked - near).norm(dim=1).sum()) >= least - 1e-9
    line = [torch.tensor([value]).double() for value in (0.0, 0.0, 0.0, 1.0, 100.0)]
    assert float(GeometricMedian().combine(line)) == pytest.approx(0, abs=1e-6)


def test_nearest_neighbour_mixing_mixes_the_nearest() -> None:
    rows = honest("mixing", count=7)
    mixed = []
    for row in rows:
        near = sorted(rows, key=lambda other, row=row: float((other - row).norm()))[:5]
        mixed.append(torch.stack(near).mean(dim=0))
    found = NearestNeighbourMixing(Median(), LIARS).combine(rows)
    torch.testing.assert_close(found, Median().combine(mixed))


def test_buckets_are_means_of_distinct_updates() -> None:
    rows = honest("buckets", count=6)
    found = Bucketing(Krum(0), size=2, seed=3).combine(rows)
    assert any(torch.allclose(found, (one + other) / 2) for one, other in combinations(rows, 2))


# In a scenario --------------------------------------------------------------------------------------------------------

DIGITS = {
    "seed": 3,
    "until": {"versions": 25},
    "data": {"digits": {"partition": "iid"}},
    "model": "logistic",
    "fleet": {"clients": 12, "devices": "fedscale"},
    "local": {"steps": 5, "batch": 16, "optimizer": {"sgd": {"lr": 0.2}}},
    "evaluate": {"every": "1 h"},
}
ARGUMENTS = {
    "median": {}, "trimmed_mean": {"liars": 2}, "krum": {"liars": 2, "keep": 4}, "bulyan": {"liars": 2},
    "geometric_median": {}, "centred_clipping": {"radius": 1.0}, "norm_bound": {"radius": 5.0},
    "nearest_neighbour_mixing": {"rule": "median", "liars": 2}, "bucketing": {"rule": "median"},
}  # fmt: skip


def run(name: str, **changes):
    defence = {name: ARGUMENTS[name]}
    [arm] = scenario.read(DIGITS | {"aggregator": {"fedavg": {"cohort": "all", "defence": defence}}} | changes)
    simulation = experiment.assemble(arm).simulation(Recording())
    simulation.run()
    return simulation


@pytest.mark.parametrize("name", DEFENCES)
def test_every_defence_learns_and_is_the_same_under_every_executor(name) -> None:
    found = [run(name, executor=kind) for kind in ("inline", "stacked", "null")]
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert found[0].trace.digest() == found[1].trace.digest() == found[2].trace.digest()
    assert found[0].progress.rows[-1]["accuracy"] > 0.85


@pytest.mark.parametrize(
    ("defence", "sentence"),
    [({"krum": {"liars": 3}}, "needs 9 updates a round, but 5 are asked for"), ("krmu", "did you mean krum"),
     ({"trimmed_mean": {"liars": -1}}, "defence.trimmed_mean.liars")],
)  # fmt: skip
def test_what_cannot_defend_is_refused(defence, sentence) -> None:
    changed = DIGITS | {"aggregator": {"fedavg": {"cohort": 5, "defence": defence}}}
    with pytest.raises(ScenarioError, match=sentence):
        [experiment.assemble(arm) for arm in scenario.read(changed)]


def test_a_defended_step_is_no_linear_combination() -> None:
    changed = DIGITS | {"aggregator": {"fedavg": {"defence": "median"}},
                        "wire": {"codec": {"srht": {"ratio": 0.5}}, "down": "step"}}  # fmt: skip
    with pytest.raises(ScenarioError, match="does not step along a fixed combination"):
        [experiment.assemble(arm) for arm in scenario.read(changed)]


def test_too_few_that_are_sound_end_the_run_with_a_sentence() -> None:
    with pytest.raises(RunFailed, match="Krum needs 7 updates against 2 liars, and has 6, of which 5 are"):
        Krum(2).combine([*honest(count=5), torch.full((SIZE,), float("nan")).double()])
