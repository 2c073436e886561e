"""Fitting a fleet to recordings: what is known is found, what comes later is foretold, nothing is peeked at."""

from __future__ import annotations

import json
from statistics import median

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import fedsim
from fedsim.__main__ import app
from fedsim.calibration import Fit, fitted, halves, rounds, tasks
from fedsim.card import Line, calibrate, time_to
from fedsim.card import _tau as ranking
from fedsim.errors import ScenarioError

SCENARIO = {
    "seed": 3,
    "until": {"versions": 24},
    "data": {"digits": {"partition": "iid"}},
    "model": {"mlp": {"hidden": [8]}},
    "fleet": {"clients": 4, "devices": {"lognormal": {"speed": "1 GFLOP/s"}}},
    "network": {"star": {"latency": "0 s", "server_up": "unlimited", "server_down": "unlimited"}},
    "local": {"steps": 4, "batch": 8, "optimizer": {"sgd": {"lr": 0.1}}},
    "evaluate": {"every": "100 ms"},
    "aggregator": {"fedavg": {"cohort": "all"}},
}
STRAGGLING = {"fleet": SCENARIO["fleet"] | {"stragglers": {"lognormal": {"sigma": 0.3}}}}
FEDBUFF = {"aggregator": {"fedbuff": {"concurrency": 4, "goal": 2}}, "until": {"versions": 60}}


def recorded(tmp_path, **changes):
    return fedsim.run(SCENARIO | changes, out=tmp_path, picture=False)


def test_tasks_are_told_from_their_phases(tmp_path) -> None:
    run = recorded(tmp_path)
    seen = tasks(run.trace)
    assert len(seen) == 24 * 4
    spent = seen.download + seen.train + seen.upload
    assert np.allclose(seen.end - seen.begin, spent, atol=2e-6)
    assert set(seen.down) == set(seen.up) == {4 * (64 * 8 + 8 + 8 * 10 + 10)}


@pytest.mark.parametrize("lost_in", ["train", "upload"])
def test_what_was_lost_is_no_task_and_lends_nothing_to_the_next(lost_in) -> None:
    """The same client starts twice from the same version; its first attempt comes to nothing."""
    first = ["start", "train", "upload"][: 2 if lost_in == "train" else 3]
    kinds = [*first, "lost", "start", "train", "upload", "arrive"]
    times = [*range(len(first) + 1), 10, 11, 13, 16]
    trace = pd.DataFrame({"kind": kinds, "time": [each * 1_000_000 for each in times], "client": 0, "version": 5,
                          "nbytes": 4, "staleness": 0, "peer": -1})  # fmt: skip
    [found] = tasks(trace).to_dict("records")
    assert [found[name] for name in ("begin", "download", "train", "upload", "end")] == [10, 1, 2, 3, 16]
    assert tasks(trace.iloc[: len(first) + 1]).empty


def test_a_fleet_without_chance_is_found_and_foretold_to_the_microsecond(tmp_path) -> None:
    run = recorded(tmp_path)
    seen = tasks(run.trace).assign(examples=4 * 8)
    fit = Fit.of(seen, 4)
    assert all(late.max() < 1e-5 for late in fit.late.values())
    again = fedsim.run(fitted(run.scenario, *fit.write(tmp_path, 30, seed=0, replica=0)), out=tmp_path, picture=False)
    assert np.allclose(rounds(again.trace), rounds(run.trace), atol=1e-4)
    assert np.allclose(again.metrics.accuracy, run.metrics.accuracy)


def test_what_chance_adds_is_drawn_from_what_was_seen(tmp_path) -> None:
    seen = pd.DataFrame({"client": [0, 0, 0, 1], "version": [0, 1, 2, 0], "begin": 0.0, "end": [3.0, 4.0, 7.0, 3.5],
                         "download": 1.0, "train": [1.0, 2.0, 5.0, 1.5], "upload": 1.0, "down": 8, "up": 4,
                         "examples": [10, 10, 10, 5]})  # fmt: skip
    fit = Fit.of(seen, 2)
    assert fit.devices.seconds_per_example.tolist() == [0.1, 0.3]
    assert fit.devices.down.tolist() == [8, 8]
    assert fit.late[0].tolist() == [0, 1, 4]
    _, delays = fit.write(tmp_path, 300, seed=0, replica=0)
    drawn = pd.read_csv(delays)["client 0"].round(3).value_counts(normalize=True)
    assert set(drawn.index) == {0.0, 1.0, 4.0}
    assert drawn.min() > 0.25
    _, others = fit.write(tmp_path, 300, seed=0, replica=1)
    assert not pd.read_csv(delays).equals(pd.read_csv(others))


def test_a_round_is_as_many_tasks_as_are_under_way_at_once(tmp_path) -> None:
    """A synchronous algorithm's version; two versions of a buffer that takes two updates of four clients."""
    for name, change, versions in (("rounds", {}, 1), ("buffer", FEDBUFF, 2)):
        trace = recorded(tmp_path / name, **change).trace
        stepped = trace.time[(trace.kind == "version") & (trace.client < 0)].to_numpy()[versions - 1 :: versions] / 1e6
        assert np.allclose(rounds(trace).cumsum(), stepped, atol=1e-9)
        assert len(stepped) > 20
    lost = trace.assign(kind=np.where(trace.kind == "arrive", "lost", trace.kind))
    assert rounds(lost).equals(rounds(trace))


def line(recorded: float, simulated: float) -> Line:
    return Line("", 5, 0.1, 0.9, recorded, simulated)


def test_a_run_that_never_reaches_the_target_is_the_last_of_the_ranking() -> None:
    first, second, third = (1.0, 10.0), (2.0, 30.0), (3.0, 20.0)
    assert ranking([line(*first), line(*second), line(*third)]) == pytest.approx(1 / 3)
    assert ranking([line(*first), line(2.0, np.inf), line(*third)]) == pytest.approx(1 / 3)
    assert ranking([line(*first), line(np.inf, np.inf), line(*third)]) == 1
    assert ranking([line(*first), line(np.inf, 1.0)]) == -1
    assert ranking([line(*first)]) is None
    assert ranking([line(np.inf, 1.0), line(np.inf, 2.0)]) is None


def test_halves_are_of_time_and_know_nothing_of_what_comes_later(tmp_path) -> None:
    seen = tasks(recorded(tmp_path).trace)
    first, middle = halves(seen)
    assert first.end.max() <= middle < seen.end.max()
    assert middle == seen.end.max() / 2


def test_the_card_of_runs_that_chance_has_touched(tmp_path) -> None:
    runs = [recorded(tmp_path, **STRAGGLING), recorded(tmp_path, **STRAGGLING, **FEDBUFF)]
    card = calibrate(runs, tmp_path / "card", replicas=8, target=0.6)
    assert [line.rounds > 5 for line in card.lines] == [True, True]
    assert all(line.coverage > 0.5 for line in card.lines)
    assert card.error < 0.5
    assert card.tau == 1
    assert json.loads((tmp_path / "card" / "card.json").read_text())["tau"] == 1


def test_the_card_goes_onto_a_page_of_the_runs(tmp_path) -> None:
    pytest.importorskip("plotly", reason="the extra `report` is not installed")
    runs = [recorded(tmp_path / name, **change).path for name, change in (("rounds", {}), ("buffer", FEDBUFF))]
    words = ["calibrate", *map(str, runs), "--replicas", "2", "--report", "--out", str(tmp_path / "card")]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert "report.html" in said.stdout
    card, page = (tmp_path / "card" / name for name in ("card.json", "report.html"))
    known, shown = json.loads(card.read_text()), page.read_text().split("Side by side")[0]
    assert "Sim to real" in shown
    assert f"{median(line['error'] for line in known['lines']):.1%}" in shown
    assert all(f"{line['recorded']:.12g}" in shown for line in known["lines"])


def test_a_change_of_pace_shows_as_error(tmp_path) -> None:
    """Twice as slow in the second half: what was foretold is half of what happened."""
    run = recorded(tmp_path)
    slow = run.trace.copy()
    change = 2 * slow.time.max() // 3  # which is half of the time that it then takes
    slow["time"] = np.where(slow.time > change, 2 * slow.time - change, slow.time)
    run.__dict__["trace"] = slow
    card = calibrate([run], tmp_path / "card", replicas=2)
    assert card.lines[0].error == pytest.approx(0.5, abs=0.05)
    assert card.lines[0].coverage == 0


def test_time_to_a_target() -> None:
    metrics = pd.DataFrame({"time_s": [0.0, 1.0, 2.0], "accuracy": [0.1, 0.5, 0.4]})
    assert time_to(metrics, 0.5) == 1
    assert time_to(metrics, 0.6) == np.inf


def test_a_client_that_nothing_is_known_of_is_named(tmp_path) -> None:
    seen = tasks(recorded(tmp_path).trace).assign(examples=32)
    with pytest.raises(ScenarioError, match=r"clients \[2\] have finished no task"):
        Fit.of(seen.loc[seen.client != 2], 4)


def test_fleets_of_other_sizes_are_not_one(tmp_path) -> None:
    other = recorded(tmp_path, fleet={"clients": 3, "devices": "constant"})
    with pytest.raises(ScenarioError, match="these runs have 3, 4 clients"):
        calibrate([recorded(tmp_path), other], tmp_path / "card")
