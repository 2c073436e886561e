"""Choosing a code from recorded times: the fit, the grid, the choice, and what the command line says."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fedsim.__main__ import app
from fedsim.coding import CODES
from fedsim.coding.replay import Replay
from fedsim.coding.tuning import Grid, Profile, best, read_profile, search, slope_of, without_work
from fedsim.errors import ScenarioError
from fedsim.scenario import read

WORKERS = 8


def times(load: float, rounds: int = 20, seed: int = 0) -> np.ndarray:
    """About a tenth of a second, and two for everything; now and then somebody takes half a second longer."""
    rng = np.random.default_rng((seed, int(100 * load)))
    late = rng.random((rounds, WORKERS)) < 0.06
    return rng.uniform(0.09, 0.11, (rounds, WORKERS)) + 2.0 * load + 0.5 * late


def test_time_is_fitted_to_load() -> None:
    profiles = [Profile(load, 0.1 + 2.0 * load + 0 * times(load)) for load in (0.0, 0.25, 1.0)]
    assert slope_of(profiles) == pytest.approx(2.0)
    np.testing.assert_allclose(without_work(profiles[1:], 2.0), 0.1)
    noisy = [Profile(load, times(load, rounds=400)) for load in (0.0, 0.5, 1.0)]
    assert slope_of(noisy) == pytest.approx(2.0, abs=0.02)
    with pytest.raises(ScenarioError, match="at least two loads"):
        slope_of(profiles[:1])


def test_the_grid_has_what_the_models_hide_and_nothing_else() -> None:
    grid = Grid(WORKERS, models=4, window=10)
    assert grid.multiplexed() == [(1, 2), (1, 3), (1, 4), (2, 3)]
    assert all(burst <= 3 and (window - 1) % burst == 0 for burst, window in grid.selective_repeat())
    assert len(Grid(256, models=5, window=10).selective_repeat()) * 256 == 4608


def test_every_candidate_is_a_code_with_this_load_and_delay() -> None:
    replay = Replay(times(0.0), 2.0, jobs=6)
    grid = Grid(WORKERS, models=4, window=6)
    tried = [candidate for some in search(replay, grid) for candidate in some]
    assert len(tried) == 1 + 7 + sum(each.name == "srsgc" for each in tried) + 4 * WORKERS
    for candidate in tried:
        code = CODES[candidate.name](workers=WORKERS, models=4, **candidate.arguments)
        assert candidate.load == pytest.approx(code.load)
        assert candidate.least <= candidate.load * (1 + 1e-12)


def test_the_choice_is_the_fastest_of_each_and_redundancy_pays_where_stragglers_are_long() -> None:
    replay = Replay(times(0.0, rounds=60), 0.05, jobs=60)
    grid = Grid(WORKERS, models=4, window=6)
    tried = [candidate for some in search(replay, grid) for candidate in some]
    chosen = best(tried)
    assert {candidate.name for candidate in chosen} == {"uncoded", "gc", "srsgc", "msgc"}
    for candidate in chosen:
        assert candidate.seconds == min(each.seconds for each in tried if each.name == candidate.name)
    assert chosen[-1].name == "uncoded"
    heavy = [one for some in search(Replay(times(0.0, rounds=60), 50.0, jobs=60), grid) for one in some]
    assert best(heavy)[0].name in ("uncoded", "msgc"), "where work is dear, nobody should do it twice"


def test_the_command_line_reads_tables_and_says_a_scenario(tmp_path) -> None:
    for load, name in ((0.0, "idle"), (1.0, "all")):
        pd.DataFrame(times(load), columns=[f"w{i}" for i in range(WORKERS)]).to_csv(
            tmp_path / f"{name}.csv", index=False
        )
    np.savez(tmp_path / "half.npz", one=times(0.5), other=times(0.5))
    given = [f"0={tmp_path}/idle.csv", f"0.5={tmp_path}/half.npz:one,other", f"1={tmp_path}/all.csv"]
    done = CliRunner().invoke(app, ["tune", "coding", *given, "--jobs", "20", "--table", str(tmp_path / "table.csv")])
    assert done.exit_code == 0
    assert "20 recorded rounds of 8 workers" in done.output
    table = pd.read_csv(tmp_path / "table.csv")
    assert set(table.name) == {"uncoded", "gc", "srsgc", "msgc"}
    assert f"{len(table)} candidates" in done.output
    machine = CliRunner().invoke(app, ["tune", "coding", *given, "--jobs", "20", "--json"])
    found = json.loads(machine.stdout)
    assert found["slope_s"] == pytest.approx(2.0, abs=0.1)
    assert [(one["load"], round(one["mean_s"])) for one in found["profiles"]] == [(0.0, 0), (0.5, 1), (1.0, 2)]
    for choice in found["best"]:
        read({"until": {"versions": 1}, "data": "digits", "model": "logistic", "fleet": {"clients": 8,
              "devices": "constant"}, "local": {"steps": 1, "optimizer": {"sgd": {"lr": 0.1}}},
              "evaluate": {"every": "1 s"}, **choice["scenario"]})  # fmt: skip
    assert found["best"][0]["seconds"] == table.seconds.min()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("idle.csv", "expected LOAD=FILE"), ("2=idle.csv", "LOAD is the part of the data"), ("0=", "expected LOAD=FILE"),
     ("nan=idle.csv", "expected LOAD=FILE"), ("0=nowhere.csv", "nowhere.csv is in no data folder"),
     ("0=two.npz", "holds 2 tables"), ("0=two.npz:on", "did you mean one"), ("0=bad.csv", "line 2, column b")],
)  # fmt: skip
def test_what_is_no_profile_is_one_line(tmp_path, text, sentence) -> None:
    np.savez(tmp_path / "two.npz", one=times(0.0), two=times(0.0))
    (tmp_path / "bad.csv").write_text("a,b\n1.0,-2\n")
    with pytest.raises(ScenarioError, match=sentence):
        read_profile(text, [tmp_path])


def test_profiles_of_other_workers_do_not_go_together() -> None:
    with pytest.raises(ScenarioError, match="differ in their workers"):
        without_work([Profile(0.0, times(0.0)), Profile(0.0, times(0.0)[:, :5])], 1.0)
