"""Comparisons over seeds: by known answers, against scipy, and by how often intervals and tests are right."""

from __future__ import annotations

import json
import sys
from math import isnan, log

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from test_waits import SERVED

import fedsim
from fedsim.__main__ import main
from fedsim.errors import ScenarioError
from fedsim.reaching import END, Outcome, outcomes
from fedsim.results import Run
from fedsim.significance import NONE, PAIRED, SIGNS, WELCH, compared, differences, holm
from fedsim.trials import Algorithm


def outcome(label: str, values, measure: str = "time", never=()) -> Outcome:
    by_seed = values if isinstance(values, dict) else dict(enumerate(values))
    return Outcome(label, measure, by_seed, frozenset(never))


A, B = [10.0, 20.0, 15.0, 30.0], [6.0, 9.0, 9.0, 14.0]


def test_pairs_of_costs_by_scipy() -> None:
    found = compared(outcome("a", A), outcome("b", B)).test
    expected = stats.ttest_rel(np.log(B), np.log(A))
    assert found.method == PAIRED
    assert found.p == pytest.approx(expected.pvalue)
    assert [found.low, found.high] == pytest.approx(np.exp(expected.confidence_interval(0.95)))
    assert found.effect == pytest.approx(stats.gmean(B) / stats.gmean(A))
    change = np.log(B) - np.log(A)
    assert found.size == pytest.approx(change.mean() / change.std(ddof=1))


def test_the_metric_is_compared_by_differences() -> None:
    found = compared(outcome("a", A, END), outcome("b", B, END)).test
    expected = stats.ttest_rel(B, A)
    assert found.effect == pytest.approx(np.mean(B) - np.mean(A))
    assert found.p == pytest.approx(expected.pvalue)
    assert [found.low, found.high] == pytest.approx(expected.confidence_interval(0.95))


def test_without_shared_seeds_it_is_welch_s() -> None:
    found = compared(outcome("a", A), outcome("b", dict(zip([7, 8, 9], B, strict=False))))
    expected = stats.ttest_ind(np.log(B[:3]), np.log(A), equal_var=False)
    assert (found.test.method, found.shared) == (WELCH, 0)
    assert found.test.p == pytest.approx(expected.pvalue)
    assert [found.test.low, found.test.high] == pytest.approx(np.exp(expected.confidence_interval(0.95)))


def test_only_shared_seeds_are_paired() -> None:
    found = compared(outcome("a", dict(enumerate(A))), outcome("b", {1: 9.0, 3: 14.0, 8: 1e9}))
    assert found.shared == 2
    assert found.test.p == pytest.approx(stats.ttest_rel(np.log([9, 14]), np.log([20, 30])).pvalue)


def test_one_seed_says_nothing() -> None:
    found = compared(outcome("a", [1.0]), outcome("b", [2.0])).test
    assert found.method == NONE
    assert isnan(found.p)


def test_who_never_reaches_it_is_later_than_who_does_and_that_is_all_that_is_known() -> None:
    """Seeds 0 and 1: a reached it before b's end. 2: b never, and ended before a reached it. 3: neither."""
    found = compared(
        outcome("a", [1.0, 2.0, 9.0, 4.0], never=[3]), outcome("b", [5.0, 5.0, 5.0, 5.0], never=[0, 1, 2, 3])
    )
    assert (found.test.method, found.test.unknown) == (SIGNS, 2)
    assert found.test.p == stats.binomtest(2, 2).pvalue == 0.5
    assert isnan(found.test.effect)
    other = compared(outcome("b", [5.0] * 6, never=range(6)), outcome("a", [1.0, 2.0, 3.0, 4.0, 1.0, 2.0])).test
    assert other.p == pytest.approx(stats.binomtest(6, 6).pvalue)
    later = compared(outcome("b", [5.0, 5.0], never=[0, 1]), outcome("a", [9.0, 1.0])).test
    assert (later.unknown, later.p) == (1, 1.0)
    mixed = compared(outcome("a", [1.0, 7.0, 3.0, 4.0, 1.0]), outcome("b", [5.0] * 5, never=[0])).test
    assert mixed.p == pytest.approx(stats.binomtest(4, 5).pvalue)


def test_equal_runs_are_equal_and_one_number_is_no_proof() -> None:
    same = compared(outcome("a", A), outcome("b", A)).test
    assert (same.method, same.p, same.effect) == (SIGNS, 1.0, 1.0)
    doubled = compared(outcome("a", A), outcome("b", [2 * value for value in A])).test
    assert (doubled.method, doubled.p, doubled.effect) == (SIGNS, 0.125, pytest.approx(2.0))
    at_once = compared(outcome("a", [0.0, 0.0, 1.0]), outcome("b", [1.0, 2.0, 3.0])).test
    assert (at_once.method, at_once.p) == (SIGNS, 0.25)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.5, float("nan"), 0.02, 0.02]) == pytest.approx([0.04, 0.5, np.nan, 0.06, 0.06], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    found = differences([outcome(name, values, measure) for name, values in (("a", A), ("b", B), ("c", A[::-1]))
                         for measure in ("time", "bytes")])  # fmt: skip
    assert [(one.first, one.second) for one in found[::2]] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [one.adjusted for one in found] == holm([one.test.p for one in found])
    assert max(one.adjusted / one.test.p for one in found) == pytest.approx(6)


def test_from_a_baseline() -> None:
    every = [outcome(name, A) for name in "abc"]
    assert [(one.first, one.second) for one in differences(every, "b")] == [("b", "a"), ("b", "c")]
    with pytest.raises(ScenarioError, match="--baseline bb: there is no such algorithm; did you mean b"):
        differences(every, "bb")


def drawn(stream, ratio: float, shared: float, seeds: int = 5) -> tuple[Outcome, Outcome]:
    """Times whose logarithms share noise between algorithms; the second takes `ratio` times as long."""
    common, own = stream.normal(0, shared, seeds), stream.normal(0, 0.1, (2, seeds))
    return outcome("a", np.exp(common + own[0]).tolist()), outcome("b", (ratio * np.exp(common + own[1])).tolist())


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    stream = np.random.default_rng(5)
    found = [compared(*drawn(stream, 0.7, 0.5)).test for _ in range(1000)]
    covered = np.mean([one.low <= 0.7 <= one.high for one in found])
    assert abs(covered - 0.95) < 0.02
    assert np.mean([log(one.effect) for one in found]) == pytest.approx(log(0.7), abs=0.01)


def test_false_alarms_are_as_rare_as_they_say_and_pairing_sees_more() -> None:
    stream = np.random.default_rng(6)
    assert np.mean([compared(*drawn(stream, 1.0, 0.5)).test.p < 0.05 for _ in range(1000)]) == pytest.approx(
        0.05, abs=0.02
    )
    many = [min(holm([compared(*drawn(stream, 1.0, 0.5)).test.p for _ in range(10)])) < 0.05 for _ in range(400)]
    assert np.mean(many) == pytest.approx(0.05, abs=0.03)
    pairs = [drawn(stream, 0.7, 0.5) for _ in range(300)]
    apart = [(one, outcome("b", {seed + 9: value for seed, value in other.values.items()})) for one, other in pairs]
    power = [np.mean([compared(*pair).test.p < 0.05 for pair in of]) for of in (pairs, apart)]
    assert power[0] > 0.9
    assert power[1] < 0.3


def recorded(path, seed: int, accuracies: list[float]) -> Run:
    """A run folder with this accuracy after each 10 s, version and kilobyte."""
    path.mkdir(parents=True)
    (path / "scenario.yaml").write_text(f"seed: {seed}\nmodel: {path.parent.name}\n")
    steps = range(len(accuracies))
    frame = pd.DataFrame({"time_s": [10.0 * step for step in steps], "version": steps, "updates": steps, "lost": 0})
    frame = frame.assign(bytes_down=400 * frame.version, bytes_up=600 * frame.version, staleness=0.0)
    frame = frame.assign(accuracy=accuracies, loss=[1 - one for one in accuracies])
    frame.to_csv(path / "metrics.csv", index=False)
    return Run(path)


def test_costs_are_those_of_the_first_measurement_that_is_enough(tmp_path) -> None:
    runs = {
        0: recorded(tmp_path / "a" / "0", 0, [0.1, 0.8, 0.7, 0.9]),
        1: recorded(tmp_path / "a" / "1", 1, [0.1, 0.2]),
    }
    found = {one.measure: one for one in outcomes([Algorithm("a", runs)], "accuracy", 0.8)}
    assert found["time"].values == {0: 10.0, 1: 10.0}
    assert found["bytes"].values == {0: 1000.0, 1: 1000.0}
    assert found["versions"].values == {0: 1.0, 1: 1.0}
    assert found["time"].never == {1}
    assert found["time"].half is None
    assert found[END].values == {0: 0.9, 1: 0.2}
    assert found[END].half == pytest.approx(stats.t.ppf(0.975, 1) * np.std([0.9, 0.2], ddof=1) / np.sqrt(2))
    falling = {one.measure: one for one in outcomes([Algorithm("a", runs)], "loss", 0.15)}
    assert falling["time"].values[0] == 30.0
    assert [one.measure for one in outcomes([Algorithm("a", runs)], "loss", None)] == [END]
    with pytest.raises(ScenarioError, match="has not measured 'acuracy'; did you mean accuracy"):
        outcomes([Algorithm("a", runs)], "acuracy", None)


def command(monkeypatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["fedsim", "compare", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.fixture
def folders(tmp_path) -> list[str]:
    stream, found = np.random.default_rng(3), []
    for seed in range(4):
        late = int(stream.integers(0, 4))
        for name, rise in (("quick", 0.09), ("slow", 0.045), ("never", 0.01)):
            curve = [min(0.95, rise * max(0, step - late) + 0.02 * stream.random()) for step in range(30)]
            found.append(str(recorded(tmp_path / name / str(seed), seed, curve).path))
    return found


def test_from_the_command_line(folders, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    target = tmp_path / "compare.png"
    assert command(monkeypatch, *folders, "--target", "0.8", "--out", str(target)) == 0
    said = capsys.readouterr().out
    assert "(never: 4 of 4)" in said
    assert "sign test" in said
    assert "Holm" in said
    with Image.open(target) as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    assert command(monkeypatch, *folders, "--target", "0.8", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    rows = {(row["label"], row["measure"]): row for row in found["outcomes"]}
    assert rows["quick", "time"]["mean"] < rows["slow", "time"]["mean"]
    assert rows["never", "time"]["never"] == [0, 1, 2, 3]
    assert rows["never", "time"]["half"] is None
    pairs = {(row["first"], row["second"], row["measure"]): row for row in found["differences"]}
    assert pairs["quick", "slow", "time"]["effect"] > 1.3
    assert pairs["quick", "slow", "time"]["adjusted"] < 0.1
    assert pairs["quick", "never", "time"]["effect"] is None
    assert found["tests"] == len(pairs) == 12


def test_what_cannot_be_compared_is_one_line(folders, monkeypatch, capsys, tmp_path) -> None:
    faults = {
        "is not a run folder": [str(tmp_path)],
        "expected two algorithms or more": folders[:1],
        "there is no such algorithm": [*folders[:3], "--baseline", "fast"],
        "has not measured": [*folders[:3], "--metric", "acc"],
        "is there twice": [folders[0], *folders],
    }
    for sentence, arguments in faults.items():
        assert command(monkeypatch, *arguments) == 2
        assert sentence in capsys.readouterr().err


def test_real_runs_of_a_grid(tmp_path, monkeypatch, capsys) -> None:
    axes = {"way": {"three": {}, "six": {"aggregator": {"fedavg": {"cohort": "all"}}}}, "seed": [0, 1, 2]}
    run = fedsim.run(SERVED | {"compare": axes, "executor": "stacked"}, out=tmp_path, picture=False)
    assert command(monkeypatch, str(run.path), "--target", "0.3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["label"] for row in found["outcomes"]} == {"three", "six"}
    assert all(row["shared"] == 3 for row in found["differences"])
