"""How long one local training drags on."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import DataMissing, ScenarioError
from fedsim.fleet import Fleet, stragglers
from fedsim.fleet.devices import Constant
from fedsim.fleet.stragglers import Exponential, GilbertElliott, Lognormal, Pareto, Stragglers, Trace

WIDEST = [Lognormal(10), Pareto(0.1), Exponential(1e6), GilbertElliott(0.5, 0.5, 1e6), Stragglers()]


def factors(straggling, clients=40, ordinals=250, seed=1):
    return np.array([[straggling.factor(c, n, seed) for n in range(ordinals)] for c in range(clients)])


def gap(sample, distribution):
    """Kolmogorov-Smirnov distance between a sample and a distribution function."""
    levels = np.sort(distribution(sample.ravel()))
    steps = np.arange(len(levels) + 1) / len(levels)
    return max(np.abs(levels - steps[1:]).max(), np.abs(levels - steps[:-1]).max())


@pytest.mark.parametrize(
    ("straggling", "distribution"),
    [
        (Lognormal(0.5), lambda x: np.array([0.5 * (1 + math.erf(math.log(v) / 0.5 / math.sqrt(2))) for v in x])),
        (Pareto(1.5), lambda x: 1 - x**-1.5),
        (Exponential(0.7), lambda x: -np.expm1(-(x - 1) / 0.7)),
    ],
)
def test_factors_follow_their_distribution_and_no_two_trainings_are_alike(straggling, distribution):
    sample = factors(straggling)
    assert gap(sample, distribution) < 1.63 / math.sqrt(sample.size)
    assert len(np.unique(sample)) == sample.size


@pytest.mark.parametrize("straggling", WIDEST)
@pytest.mark.parametrize("level", [0.0, 0.5, 1 - 2.0**-53])
def test_factors_are_finite_and_above_zero_at_the_ends_of_chance(straggling, level, monkeypatch):
    monkeypatch.setattr(stragglers, "chance", lambda *_: level)
    assert 0 < straggling.factor(0, 3, seed=1) < math.inf


def test_pareto_and_exponential_never_speed_up():
    assert factors(Pareto(0.5)).min() >= 1
    assert factors(Exponential(0.5)).min() >= 1
    assert set(factors(Stragglers(), 2, 2).ravel()) == {1.0}
    assert set(factors(Lognormal(0), 2, 2).ravel()) == {1.0}


def test_gilbert_elliott_has_its_stationary_share_and_its_spells():
    slow = factors(GilbertElliott(p_slow=0.1, p_recover=0.4, slowdown=8), clients=100) == 8
    assert slow.mean() == pytest.approx(0.2, abs=0.02)
    assert slow[:, 0].mean() == pytest.approx(0.2, abs=0.16)
    after = slow[:, 1:]
    assert after[slow[:, :-1]].mean() == pytest.approx(0.6, abs=0.03)
    assert after[~slow[:, :-1]].mean() == pytest.approx(0.1, abs=0.01)
    spells = [len(list(run)) for client in slow for state, run in groupby(client) if state]
    assert np.mean(spells) == pytest.approx(1 / 0.4, rel=0.06)
    assert abs(np.corrcoef(slow[:50].ravel(), slow[50:].ravel())[0, 1]) < 0.06


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 1)), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_gilbert_elliott_is_the_same_in_whatever_order_it_is_asked(questions):
    asked = GilbertElliott(0.3, 0.4)
    fresh = {question: GilbertElliott(0.3, 0.4).factor(*question) for question in questions}
    assert [asked.factor(*question) for question in questions] == [fresh[question] for question in questions]
    twin = copy.deepcopy(asked)
    assert [twin.factor(*question) for question in questions] == [fresh[question] for question in questions]


def test_gilbert_elliott_draws_once_for_each_training(monkeypatch):
    drawn = []
    monkeypatch.setattr(stragglers, "chance", lambda *name: drawn.append(name) or 0.5)
    chain = GilbertElliott()
    for ordinal in [*range(100), *range(100)]:
        chain.factor(0, ordinal, seed=1)
    assert len(drawn) == len(set(drawn)) == 100
    assert chain == GilbertElliott(), "what it remembers is no part of what it is"


@pytest.mark.parametrize(("p_slow", "p_recover", "expected"), [(0, 0, {1.0}), (1, 0, {8.0}), (0, 1, {1.0})])
def test_gilbert_elliott_at_its_ends(p_slow, p_recover, expected):
    assert set(factors(GilbertElliott(p_slow, p_recover), 10, 20).ravel()) == expected


def test_trace_compares_with_the_median_of_the_round(tmp_path):
    (tmp_path / "times.csv").write_text("w0,w1,w2\n1,2,4\n10,10,50\n")
    trace = Trace(tmp_path / "times.csv")
    assert [[trace.factor(c, n, seed=1) for c in range(4)] for n in range(3)] == [
        [0.5, 1.0, 2.0, 0.5],
        [1.0, 1.0, 5.0, 1.0],
        [0.5, 1.0, 2.0, 0.5],
    ]


def test_trace_from_npz(tmp_path):
    np.savez(tmp_path / "one.npz", only=np.array([[1, 2, 3]], dtype=np.float32))
    np.savez(tmp_path / "two.npz", tokyo=np.array([[1.0, 2.0, 8.0]]), sydney=np.array([[1.0, 1.0, 3.0]]))
    assert Trace(tmp_path / "one.npz").factor(2, 0, seed=1) == 1.5
    assert Trace("two.npz", profile="tokyo", folders=[tmp_path]).factor(2, 0, seed=1) == 4.0
    with pytest.raises(ScenarioError, match="holds 2 tables: name one as profile"):
        Trace(tmp_path / "two.npz")
    with pytest.raises(ScenarioError, match=r"did you mean tokyo\?"):
        Trace(tmp_path / "two.npz", profile="tokio")


@pytest.mark.parametrize(
    "table",
    [
        np.array([1.0, 2.0]),
        np.zeros((0, 4)),
        np.array([[1.0, -1.0]]),
        np.array([[1.0, math.nan]]),
        np.array([[1.0, math.inf]]),
        np.array([["a", "b"]]),
        np.array([[1.0, None]], dtype=object),
    ],
    ids=["one axis", "empty", "negative", "nan", "infinite", "text", "pickle"],
)
def test_a_bad_npz_is_refused(tmp_path, table):
    np.savez(tmp_path / "bad.npz", table)
    with pytest.raises(ScenarioError, match=r"bad\.npz"):
        Trace(tmp_path / "bad.npz")


def test_bad_files_are_refused(tmp_path):
    (tmp_path / "times.csv").write_text("w0,w1\n1,2\n1,0\n")
    with pytest.raises(ScenarioError, match=r"times\.csv, line 3, column w1: .*above zero"):
        Trace(tmp_path / "times.csv")
    for content in (b"", b"no archive", b"PK\x03\x04 broken"):
        (tmp_path / "times.npz").write_bytes(content)
        with pytest.raises(ScenarioError, match=r"times\.npz cannot be read"):
            Trace(tmp_path / "times.npz")
    np.save(tmp_path / "times.npy", np.ones((2, 2)))
    (tmp_path / "times.npy").rename(tmp_path / "times.npz")
    with pytest.raises(ScenarioError, match=r"times\.npz cannot be read"):
        Trace(tmp_path / "times.npz")
    with pytest.raises(DataMissing):
        Trace(tmp_path / "nowhere.npz")


def test_stripes_are_few_workers_that_are_often_slow():
    plain = GilbertElliott(p_slow=0.02, p_recover=0.9, slowdown=3)
    striped = replace(plain, stripes=0.1, p_slow_striped=0.6)
    often = (factors(striped, clients=200) > 1).mean(axis=1)
    slow = often > 0.2
    assert 0.04 < slow.mean() < 0.17
    assert often[slow].mean() == pytest.approx(0.6 / 1.5, abs=0.04)
    assert often[~slow].mean() == pytest.approx(0.02 / 0.92, abs=0.01)
    assert (factors(plain)[0] == factors(replace(plain, stripes=0.0, p_slow_striped=1.0))[0]).all()


def test_gilbert_elliott_can_jitter():
    noisy = factors(GilbertElliott(p_slow=0, slowdown=3, sigma=0.2))
    assert np.log(noisy).std() == pytest.approx(0.2, rel=0.03)
    assert len(np.unique(noisy)) == noisy.size


def test_a_trace_can_be_added_as_it_is_and_in_drawn_order(tmp_path):
    seconds = np.arange(1.0, 13.0).reshape(4, 3)
    np.savez(tmp_path / "two.npz", one=seconds[:1], rest=seconds[1:])
    plain = Trace(tmp_path / "two.npz", profile="one,rest", use="delay")
    assert [[plain.delay(c, n, seed=1) for c in range(3)] for n in range(4)] == seconds.tolist()
    assert factors(plain, 3, 4).tolist() == np.ones((3, 4)).tolist()
    drawn = replace(plain, order="drawn")
    rounds = np.array([[drawn.delay(c, n, seed=1) for c in range(3)] for n in range(400)])
    assert {tuple(row) for row in rounds} == {tuple(row) for row in seconds}
    assert np.bincount(rounds[:, 0].astype(int))[1::3] == pytest.approx([100] * 4, abs=35)
    assert [replace(drawn).delay(0, n, seed=1) for n in reversed(range(400))] == rounds[::-1, 0].tolist()
    assert Trace(tmp_path / "two.npz", profile="one").delay(0, 0, seed=1) == 0


def test_a_device_can_take_time_before_its_first_example():
    [device] = Constant(per_example=2_000, overhead=500_000).draw(1, seed=0)
    assert device.training_time(10, 1.0) == 520_000
    fleet = Fleet([device], stragglers=Stragglers())
    assert fleet.training_time(0, 0, 0, 1.0) == 500_000
