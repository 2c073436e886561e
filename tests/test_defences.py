"""Robust ways to combine updates, by the laws of their table: nobody's order, place or lies count."""

from __future__ import annotations

from copy import deepcopy
from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.defences import DEFENCES
from fedsim.defences.before import Bucketing, NearestNeighbourMixing
from fedsim.defences.centres import CentredClipping, GeometricMedian, NormBound, SelfCentredClipping
from fedsim.defences.coordinates import Median, TrimmedMean
from fedsim.defences.defence import Sender
from fedsim.defences.krum import Bulyan, Krum
from fedsim.defences.remembering import AsyncFilter, FoolsGold, farthest
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
    "foolsgold": FoolsGold(),
    "async_filter": AsyncFilter(),
}
FROM_THE_ORIGIN = (NormBound, FoolsGold)
"""They look at lengths or directions of updates, which a shift changes."""
UNBOUNDED = (FoolsGold, AsyncFilter)
"""Against liars who are alike, or stand out among those of their version; nothing is promised against others."""
EVERY = pytest.mark.parametrize("defence", TABLE.values(), ids=TABLE.keys())


def combine(defence, rows) -> Tensor:
    """As if nothing had come before."""
    return deepcopy(defence).combine(rows).vector


def honest(*name: object, count: int = HONEST + LIARS) -> list[Tensor]:
    rows = stream(6, "honest", *name).standard_normal((count, SIZE))
    return list(torch.from_numpy(rows + 3).double())


def test_every_defence_is_in_the_table() -> None:
    """But for the one that has no centre without a peer's own model: see `test_peers_under_attack`."""
    assert {type(defence) for defence in TABLE.values()} == set(DEFENCES.values()) - {SelfCentredClipping}


@EVERY
def test_order_does_not_count(defence) -> None:
    rows = honest()
    found = combine(defence, rows)
    for turn in range(5):
        order = stream(1, turn).permutation(len(rows))
        torch.testing.assert_close(combine(defence, [rows[place] for place in order]), found, rtol=1e-9, atol=1e-9)


@EVERY
def test_the_origin_does_not_count(defence) -> None:
    if isinstance(defence, FROM_THE_ORIGIN):
        return
    rows, shift = honest(), torch.arange(SIZE).double() * 10
    moved = combine(defence, [row + shift for row in rows])
    torch.testing.assert_close(moved, combine(defence, rows) + shift, rtol=1e-6, atol=1e-6)


@EVERY
def test_equals_are_a_fixed_point(defence) -> None:
    row = torch.arange(SIZE).double() / 10
    torch.testing.assert_close(combine(defence, [row] * 11), row)
    assert combine(defence, [row.float()] * 11).dtype == torch.float32


@EVERY
@pytest.mark.parametrize("lie", [1e3, -1e12, float("nan"), float("inf"), -float("inf")])
def test_liars_cannot_drag_it_away(defence, lie) -> None:
    """However large: it stays within twice the honest ones' spread of their mean."""
    rows = honest(count=HONEST)
    mean = torch.stack(rows).mean(dim=0)
    spread = max(float((row - mean).norm()) for row in rows)
    liars = [torch.full((SIZE,), lie).double(), torch.full((SIZE,), lie).double() * torch.tensor([1, -1] * 3)]
    found = combine(defence, [*rows[:4], liars[0], *rows[4:], liars[1]])
    assert bool(found.isfinite().all())
    bound = 2 * spread if not isinstance(defence, NormBound) else 2.0 + float(mean.norm())
    assert float((found - mean).norm()) <= bound or (isinstance(defence, UNBOUNDED) and np.isfinite(lie))


@EVERY
def test_shares_say_how_much_each_counts(defence) -> None:
    """At most 1 in sum, 0 for what is not finite; and where the result is a linear combination it is theirs."""
    rows = [*honest(), torch.full((SIZE,), float("nan")).double()]
    vector, shares = deepcopy(defence).combine(rows)
    assert bool((shares >= 0).all())
    assert float(shares.sum()) <= 1 + 1e-9
    assert float(shares[-1]) == 0
    if isinstance(defence, Krum | GeometricMedian | NormBound | FoolsGold | AsyncFilter):
        torch.testing.assert_close(vector, shares[:-1] @ torch.stack(rows[:-1]))
    else:
        means = float(vector.mean()), float(shares[:-1] @ torch.stack(rows[:-1]).mean(dim=1))
        assert means == pytest.approx(means[::-1], abs=0.5)


def test_shares_of_a_trimmed_mean_are_counted_by_coordinates() -> None:
    rows = [torch.tensor(row).double() for row in ([0.0, 9.0], [1.0, 1.0], [2.0, 2.0], [3.0, 0.0], [4.0, 3.0])]
    vector, shares = TrimmedMean(1).combine(rows)
    assert vector.tolist() == [2.0, 2.0]
    assert shares.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 6, 1 / 6])


def test_where_nobody_lies_they_are_the_mean() -> None:
    rows = honest(count=7)
    mean = torch.stack(rows).mean(dim=0)
    for defence in (
        TrimmedMean(0), Krum(0, keep=7), CentredClipping(1e9), NormBound(1e9), Bucketing(Median(), size=7),
        NearestNeighbourMixing(Krum(0), 0),
    ):  # fmt: skip
        torch.testing.assert_close(combine(defence, rows), mean)


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
        np.testing.assert_allclose(combine(Krum(LIARS, keep), rows), expected, rtol=1e-9)


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
        found = combine(Bulyan(LIARS), [torch.from_numpy(row) for row in rows])
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_coordinates_are_numpys_and_scipys() -> None:
    for count in (10, 11):
        rows = honest("coordinates", count=count)
        stacked = np.stack([row.numpy() for row in rows])
        np.testing.assert_allclose(combine(Median(), rows), np.median(stacked, axis=0), rtol=1e-12)
        trimmed = np.sort(stacked, axis=0)[LIARS:-LIARS].mean(axis=0)
        np.testing.assert_allclose(combine(TrimmedMean(LIARS), rows), trimmed, rtol=1e-12)


def test_no_point_has_less_distance_to_all_than_the_geometric_median() -> None:
    rows = honest("median")
    stacked, found = torch.stack(rows), combine(GeometricMedian(), rows)
    least = float((stacked - found).norm(dim=1).sum())
    for turn in range(200):
        near = found + 10.0 ** -(turn % 5) * torch.from_numpy(stream(2, turn).standard_normal(SIZE))
        assert float((stacked - near).norm(dim=1).sum()) >= least - 1e-9
    line = [torch.tensor([value]).double() for value in (0.0, 0.0, 0.0, 1.0, 100.0)]
    assert float(combine(GeometricMedian(), line)) == pytest.approx(0, abs=1e-6)


def test_nearest_neighbour_mixing_mixes_the_nearest() -> None:
    rows = honest("mixing", count=7)
    mixed = []
    for row in rows:
        near = sorted(rows, key=lambda other, row=row: float((other - row).norm()))[:5]
        mixed.append(torch.stack(near).mean(dim=0))
    found = combine(NearestNeighbourMixing(Median(), LIARS), rows)
    torch.testing.assert_close(found, combine(Median(), mixed))


def test_buckets_are_means_of_distinct_updates() -> None:
    rows = honest("buckets", count=6)
    found = combine(Bucketing(Krum(0), size=2, seed=3), rows)
    assert any(torch.allclose(found, (one + other) / 2) for one, other in combinations(rows, 2))


def naive_foolsgold(history: list[np.ndarray]) -> list[float]:
    """Algorithm 1 of the paper by loops, with its public code's 0.99 left out: a logit of 1 is 1 after clipping."""
    count = len(history)
    similar = [[float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for b in history] for a in history]
    most = [max(similar[i][j] for j in range(count) if j != i) for i in range(count)]
    trust = []
    for i in range(count):
        row = [similar[i][j] * (most[i] / most[j] if most[j] > most[i] else 1) for j in range(count) if j != i]
        trust.append(min(1.0, max(0.0, 1 - max(row))))
    trust = np.clip([one / max(trust) for one in trust], 1e-12, 1 - 1e-12)
    return np.clip(np.log(trust / (1 - trust)) + 0.5, 0, 1).tolist()


def test_foolsgold_is_its_paper() -> None:
    """With a memory: the second step is weighted by both steps' sums, and clients are known by name, not by place."""
    defence = FoolsGold()
    history = {client: np.zeros(SIZE) for client in range(7)}
    for turn, clients in enumerate(([0, 1, 2, 3, 4, 5], [6, 5, 3, 1, 0])):
        rows = [row - 3 for row in honest("foolsgold", turn, count=len(clients))]
        for client, row in zip(clients, rows, strict=True):
            history[client] += row.numpy()
        vector, shares = defence.combine(rows, [Sender(client) for client in clients])
        trust = np.array(naive_foolsgold([history[client] for client in clients]))
        np.testing.assert_allclose(shares, trust / trust.sum(), atol=1e-9)
        np.testing.assert_allclose(vector, trust / trust.sum() @ np.stack(rows), rtol=1e-9)


def test_foolsgold_refuses_sybils_and_nobody_else() -> None:
    rows = list(torch.eye(SIZE).double() + 0.1)
    shares = FoolsGold().combine([*rows, rows[0] + 0.01 * rows[1], rows[0], rows[0]]).shares
    assert float(shares[[0, 6, 7, 8]].max()) == 0
    assert float(shares[1:6].min()) > 0
    twice = FoolsGold().combine([*rows, rows[2]], [Sender(client) for client in (0, 1, 2, 3, 4, 5, 2)]).shares
    assert float(twice[2]) > 0, "one client's two updates are no sybils"


def test_clusters_on_a_line_are_the_best() -> None:
    """Against all ways to put seven values into three clusters."""
    for turn in range(5):
        values = stream(3, "line", turn).exponential(size=7)
        ways = [np.array(way) for way in product(range(3), repeat=7) if set(way) == {0, 1, 2}]
        best = min(ways, key=lambda way: sum(values[way == part].var() * (way == part).sum() for part in range(3)))
        highest = best[values.argmax()]
        assert farthest(values.tolist()) == np.flatnonzero(best == highest).tolist()
    assert farthest([1.0, 1.0, 2.0]) == []


def test_async_filter_looks_at_each_version_alone() -> None:
    """By hand: version 7 has four updates, one of them far; version 6 has two, too few to say anything."""
    near = [torch.tensor([value, 0.0]).double() for value in (0.9, 1.0, 1.2)]
    far, others = torch.tensor([9.0, 0.0]).double(), [torch.tensor([50.0, 0.0]).double()] * 2
    senders = [Sender(place, version) for place, version in enumerate([7, 7, 7, 7, 6, 6])]
    defence = AsyncFilter()
    vector, shares = defence.combine([*near, far, *others], senders)
    assert shares.tolist() == pytest.approx([0.2, 0.2, 0.2, 0.0, 0.2, 0.2])
    assert vector.tolist() == pytest.approx([(0.9 + 1.0 + 1.2 + 100) / 5, 0.0])
    mean, count = defence.means[7]
    assert (mean[0].item(), count) == (pytest.approx(12.1 / 4), 4)
    assert 6 not in defence.means
    stale = [Sender(place, 7, weight=0.5) for place in range(3)]
    defence.combine([row / 2 for row in near], stale)
    mean, count = defence.means[7]
    assert (mean[0].item(), count) == (pytest.approx((12.1 + 3.1) / 7), 7), "the discount does not count"


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
    "foolsgold": {}, "async_filter": {},
}  # fmt: skip
ROUNDS = {"fedavg": {"cohort": "all"}}


def run(name: str, **changes):
    [arm] = scenario.read(DIGITS | {"defence": {name: ARGUMENTS[name]}, "aggregator": ROUNDS} | changes)
    simulation = experiment.assemble(arm).simulation(Recording())
    simulation.run()
    return simulation


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_defence_learns_and_is_the_same_under_every_executor(name) -> None:
    found = [run(name, executor=kind) for kind in ("inline", "stacked", "null")]
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert found[0].trace.digest() == found[1].trace.digest() == found[2].trace.digest()
    assert found[0].progress.rows[-1]["accuracy"] > 0.85


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_defence_works_in_a_buffer_of_stale_updates(name) -> None:
    buffer = {"aggregator": {"fedbuff": {"concurrency": 12, "goal": 11}}, "until": {"versions": 60}}
    found = [run(name, executor=kind, **buffer) for kind in ("inline", "stacked", "null")]
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert found[0].trace.digest() == found[1].trace.digest() == found[2].trace.digest()
    assert found[0].progress.rows[-1]["accuracy"] > 0.85


def test_a_defence_that_keeps_everybody_is_fedbuff() -> None:
    """Discounts come before the rule, so that the mean of all is FedBuff's own step."""
    buffer = {"aggregator": {"fedbuff": {"concurrency": 12, "goal": 5}}, "until": {"versions": 12}}
    plain, kept = (run("norm_bound", **buffer, **change).aggregator.params
                   for change in ({"defence": None}, {"defence": {"norm_bound": {"radius": 1e9}}}))  # fmt: skip
    torch.testing.assert_close(kept, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("aggregator", ["fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "diloco"])
def test_servers_that_step_along_a_mean_can_be_defended(aggregator) -> None:
    simulation = run("median", aggregator={aggregator: {"cohort": "all"}}, until={"versions": 2})
    assert simulation.aggregator.counted is not None
    assert float(simulation.aggregator.counted.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("defence", "sentence"),
    [({"krum": {"liars": 3}}, "defence: needs 9 updates a step, but 5 are asked for"), ("krmu", "did you mean krum"),
     ({"trimmed_mean": {"liars": -1}}, "defence.trimmed_mean.liars")],
)  # fmt: skip
def test_what_cannot_defend_is_refused(defence, sentence) -> None:
    changed = DIGITS | {"aggregator": {"fedavg": {"cohort": 5}}, "defence": defence}
    with pytest.raises(ScenarioError, match=sentence):
        [experiment.assemble(arm) for arm in scenario.read(changed)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"aggregator": "fedstale"}, "FedStale does not take the mean of alike updates"),
     ({"aggregator": {"fedbuff": {"weights": "weighted"}}}, "FedBuff does not take the mean"),
     ({"defence": "self_centred_clipping"}, "a server has none"),
     ({"aggregator": None, "peers": "dpsgd", "network": "ring"}, "defence: only peers that send each other models")],
)  # fmt: skip
def test_what_cannot_be_defended_is_refused(change, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        run("median", **change)


def test_a_defended_step_is_no_linear_combination() -> None:
    changed = DIGITS | {"aggregator": "fedavg", "defence": "median",
                        "wire": {"codec": {"srht": {"ratio": 0.5}}, "down": "step"}}  # fmt: skip
    with pytest.raises(ScenarioError, match="does not step along a fixed combination"):
        [experiment.assemble(arm) for arm in scenario.read(changed)]


def test_too_few_that_are_sound_end_the_run_with_a_sentence() -> None:
    with pytest.raises(RunFailed, match="Krum needs 7 updates against 2 liars, and has 6, of which 5 are"):
        combine(Krum(2), [*honest(count=5), torch.full((SIZE,), float("nan")).double()])
