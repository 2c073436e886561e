"""A grid of runs as a scorecard: by hand, and from a run folder by its axes."""

from __future__ import annotations

import json
import math
from itertools import product

import pandas as pd
import pytest

import fedsim
from fedsim.errors import ScenarioError
from fedsim.intervals import mean_and_half
from fedsim.scorecard import MEASURES, Scorecard, judged


def curve(*accuracies: float, **last: float) -> pd.DataFrame:
    """A measurement a second."""
    return pd.DataFrame({"time_s": range(len(accuracies)), "accuracy": accuracies, **last})


CURVES = {
    ("none", "mean", "a", "0"): curve(0.2, 0.8, 0.9),
    ("none", "mean", "a", "1"): curve(0.1, 0.2, 0.85, 0.86, 1.0),
    ("none", "krum", "a", "0"): curve(0.2, 0.3, 0.8, 0.81, 0.9, false_positives=0.6),
    ("none", "krum", "a", "1"): curve(0.2, 0.3, 0.5, 0.6, 0.7, false_positives=0.4),
    ("lie", "mean", "a", "0"): curve(0.2, 0.2, 0.45),
    ("lie", "mean", "a", "1"): curve(0.2, 0.9, 1.1),
    ("poison", "mean", "a", "0"): curve(0.2, 0.8, 0.9, attack_success=0.7),
    ("none", "mean", "b", "0"): curve(0.2, 0.4),
    ("lie", "mean", "b", "0"): curve(0.37, 0.3),
}
"""The usual runs of panel a end with 0.9 and 1.0, so that 0.9 of their mean is 0.855; 0.36 in panel b."""


def test_measures_are_counted_by_hand() -> None:
    found = dict(zip(CURVES, judged(CURVES), strict=True))
    usual = found["none", "mean", "a", "0"]
    assert usual == {"accuracy": 0.9, "success": 0.0, "false_positives": 0.0, "slowdown": 1.0}
    assert found["none", "krum", "a", "0"]["slowdown"] == 4 / 2
    assert found["none", "krum", "a", "0"]["false_positives"] == 0.6
    assert math.isnan(found["none", "krum", "a", "1"]["slowdown"])
    assert found["lie", "mean", "a", "0"]["success"] == pytest.approx(0.5)
    assert found["lie", "mean", "a", "1"] == {"accuracy": 1.1, "success": 0.0, "false_positives": 0.0,
                                              "slowdown": pytest.approx(1 / 3)}  # fmt: skip
    assert found["poison", "mean", "a", "0"]["success"] == 0.7
    assert found["lie", "mean", "b", "0"]["slowdown"] == 0.0


def test_cells_say_means_intervals_and_what_never_came() -> None:
    names = ("attack", "defence", "timing", "seed")
    rows = [dict(zip(names, place, strict=True)) | found for place, found in zip(CURVES, judged(CURVES), strict=True)]
    card = Scorecard(pd.DataFrame(rows), *names[:3])
    mean, half = mean_and_half([0.9, 1.0])
    assert card.written("accuracy", "none", "mean", "a") == f"{mean:.2f} ±{half:.2f}"
    assert card.written("slowdown", "none", "krum", "a") == "never 1/2"
    assert card.written("accuracy", "lie", "mean", "b") == "0.30"


def test_an_interval_is_students() -> None:
    assert mean_and_half([1.0, 2.0, 3.0]) == (2.0, pytest.approx(4.30265 / 3**0.5, rel=1e-5))
    assert mean_and_half([4.0]) == (4.0, 0.0)


# From a run folder ----------------------------------------------------------------------------------------------------

GRID = {
    "until": {"versions": 2},
    "data": "digits",
    "model": "logistic",
    "fleet": {"clients": 6, "devices": "fedscale"},
    "local": {"steps": 2, "optimizer": {"sgd": {"lr": 0.1}}},
    "evaluate": {"every": "10 s"},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "compare": {
        "attack": {"none": None, "flip": {"adversaries": {"share": 0.2, "lie": "sign_flip"}}},
        "defence": {"mean": None, "median": {"defence": "median"}},
        "seed": [3, 4],
    },
}


def test_runs_by_axes_are_a_scorecard_whoever_runs_them(tmp_path) -> None:
    """One process or two: the same folder, the same numbers, the same card."""
    told: list[tuple[int, int]] = []
    alone = fedsim.run(GRID, out=tmp_path / "one")
    two = fedsim.run(
        GRID, out=tmp_path / "two", workers=2, finished=lambda label, done, total: told.append((done, total))
    )
    assert told == [(done, 8) for done in range(1, 9)]
    for one, other in zip(alone.arms, two.arms, strict=True):
        assert one.label == other.label
        assert one.receipt["digests"] == other.receipt["digests"]
    assert alone.coordinates["flip-median-4"] == {"attack": "flip", "defence": "median", "seed": "4"}
    assert {"attack", "defence", "seed", "arm"} <= set(alone.metrics)
    card = Scorecard.of(two)
    assert (card.rows, card.columns) == ("attack", "defence")
    assert len(card.cell("accuracy", "flip", "median")) == 2
    turned = Scorecard.of(two, rows="defence")
    assert turned.cell("accuracy", "median", "flip") == card.cell("accuracy", "flip", "median")
    assert not (two.path / "metrics.png").exists(), "a grid has too many lines for one picture"


def test_a_scorecard_is_drawn_and_printed_by_one_command(tmp_path) -> None:
    from typer.testing import CliRunner

    from fedsim.__main__ import app

    run = fedsim.run(GRID, out=tmp_path)
    done = CliRunner().invoke(app, ["scorecard", str(run.path)])
    assert done.exit_code == 0, done.output
    assert all(measure.title.split(":")[0].split(" ")[0] in done.output for measure in MEASURES.values())
    assert (run.path / "scorecard.png").stat().st_size > 10_000
    rows = json.loads(CliRunner().invoke(app, ["scorecard", str(run.path), "--json"]).output)
    places = {(row["attack"], row["defence"], row["seed"]) for row in rows}
    assert places == set(product(("none", "flip"), ("mean", "median"), ("3", "4")))


def test_what_is_no_grid_has_no_scorecard(tmp_path) -> None:
    run = fedsim.run(GRID | {"compare": [{"seed": 1}, {"seed": 2}]}, out=tmp_path)
    with pytest.raises(ScenarioError, match="two or three axes beside seed; here are 0"):
        Scorecard.of(run)
    grid = fedsim.run(GRID | {"until": {"versions": 1}}, out=tmp_path)
    with pytest.raises(ScenarioError, match="no axis 'defense'; did you mean defence"):
        Scorecard.of(grid, rows="defense")


def test_a_run_that_fails_in_another_process_is_told_of(tmp_path) -> None:
    from fedsim.errors import RunFailed

    broken = GRID | {"fleet": GRID["fleet"] | {"drop": {"before": 1.0}}}
    with pytest.raises(RunFailed, match="led to no server step"):
        fedsim.run(broken, out=tmp_path, workers=2)
