"""Figure scripts: their verdicts are what their intervals say, and each can at least be asked what it does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PLOTS = Path(__file__).parent.parent / "plots"
SHARED = {"figure", "best_beta", "loss_against_time", "merges"}
REPLAYS = {"sgc_parameters"}
"""These run no scenario, but `fedsim tune`."""
SCRIPTS = sorted(path.stem for path in PLOTS.glob("*.py") if path.stem not in SHARED)


@pytest.fixture
def above(monkeypatch):
    monkeypatch.syspath_prepend(PLOTS)
    from figure import above

    yield above
    sys.modules.pop("figure")


@pytest.mark.parametrize(
    ("values", "least", "outcome"),
    [
        ([1.0, 1.1, 0.9, 1.0], 0.5, "PASS"),
        ([1.0, 1.1, 0.9, 1.0], 1.5, "FAIL"),
        ([1.0, 1.1, 0.9, 1.0], 0.95, "INCONCLUSIVE"),
        ([1.0, 1.1, 0.9, 1.0], 1.05, "INCONCLUSIVE"),
        ([1.0, 3.0], 0.0, "INCONCLUSIVE"),  # two seeds that differ say little: 12.71 standard errors
        ([2.0, 2.0, 2.0], 1.0, "PASS"),
        ([2.0, 2.0, 2.0], 2.0, "FAIL"),
        ([2.0], 1.0, "PASS"),
        ([2.0], 3.0, "FAIL"),
    ],
)
def test_a_verdict_is_what_the_confidence_interval_says(above, values, least, outcome) -> None:
    assert above("claim", values, least).outcome == outcome


def test_the_interval_is_students(above) -> None:
    """Mean 2, standard deviation 1, three values: half-width 4.30 / sqrt(3)."""
    assert above("claim", [1.0, 2.0, 3.0], 0.0).figures.startswith("2 +- 2.5 over 3 seeds")


def test_the_best_beta_is_the_parabolas_lowest_point(monkeypatch) -> None:
    import numpy as np

    monkeypatch.syspath_prepend(PLOTS)
    from best_beta import best

    betas = np.array([0.0, 0.5, 1.0])
    assert best(betas, 3 + (betas - 0.3) ** 2) == pytest.approx(0.3)
    assert best(betas, 3 + (betas - 1.7) ** 2) == 1
    assert best(betas, 3 - (betas - 0.4) ** 2) == 1
    assert best(betas, 3 - (betas - 0.6) ** 2) == 0


@pytest.mark.parametrize(
    ("said", "seeds"), [([], [10, 11, 12, 13]), (["--full"], [*range(10, 20)]), (["--quick"], [10])]
)
def test_seeds_by_the_size_that_is_asked_for(monkeypatch, said, seeds) -> None:
    monkeypatch.syspath_prepend(PLOTS)
    monkeypatch.setattr(sys, "argv", ["some.py", *said])
    from figure import Figure

    assert list(Figure("title", "Setting: ours.").seeds(4, full=10, first=10)) == seeds
    sys.modules.pop("figure")


@pytest.mark.parametrize(
    ("said", "size", "outcome"),
    [([], (), "PASS"), (["--full"], ["large"], "PASS"), (["--quick"], ["small"], "INCONCLUSIVE")],
)
def test_what_is_smaller_than_the_bounds_are_for_is_not_judged(monkeypatch, said, size, outcome) -> None:
    monkeypatch.syspath_prepend(PLOTS)
    monkeypatch.setattr(sys, "argv", ["some.py", *said])
    from figure import Figure, above

    figure = Figure("title", "Setting: ours.")
    assert figure.sized(["large"], ["small"]) == size
    figure.judge(above("claim", [2.0], 1.0))
    assert [verdict.outcome for verdict in figure.verdicts] == [outcome]
    same = Figure("title", "Setting: ours.")
    same.sized(["large"])
    same.judge(above("claim", [2.0], 1.0))
    assert same.verdicts[0].outcome == "PASS"
    sys.modules.pop("figure")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_whose_setting_it_is(name) -> None:
    done = subprocess.run([sys.executable, PLOTS / f"{name}.py", "--help"], capture_output=True, text=True, check=True)
    assert "Setting: " in done.stdout
    assert "Full" in done.stdout
    assert (PLOTS.parent / "scenarios" / f"{name}.yaml").exists() == (name not in REPLAYS)
