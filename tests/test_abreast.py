"""Time once, train many: runs abreast yield to the bit what each yields alone, or need time of their own."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_experiment import SMALL

import fedsim
from fedsim import scenario
from fedsim.abreast import Together
from fedsim.clock import Clock
from fedsim.conduct import conduct
from fedsim.experiment import Experiment, assemble
from fedsim.results import Run
from fedsim.timeline import timeline
from fedsim.together import conduct_together


def local(**changes: Any) -> dict[str, Any]:
    """What clients do, changed."""
    return {"local": {**SMALL["local"], **changes}}


def fleet(**changes: Any) -> dict[str, Any]:
    """Who they are, changed."""
    return {"fleet": {**SMALL["fleet"], **changes}}


WAYS: dict[str, dict[str, Any]] = {
    "fedbuff": {},
    "in rounds, over-selected": {"aggregator": {"fedavg": {"cohort": 6, "goal": 4}}},
    "by a deadline": {"aggregator": {"fedfix": {"interval": "10 s"}}},
    "memories": {"aggregator": "fedstale", **fleet(participation={"bernoulli": {"rate": 0.5}})},
    "two vectors": {"aggregator": {"scaffold": {"cohort": 4}}},
    "kept optimizers": local(optimizer={"adam": {"lr": 0.01}}, optimizer_state="kept"),
    "each alone": {"executor": "inline"},
    "noise": {"wire": {"clip": {"flat": {"norm": 1.0}}, "noise": {"multiplier": 0.5, "by": "each"}}},
    "codec with feedback": {"wire": {"codec": {"top_k": {"ratio": 0.1}}}},
    "per-client metrics": {"evaluate": {"every": "1 min", "clients": True, "train": True}},
    "attacked": {"adversaries": {"share": 0.3, "lie": "sign_flip", "timing": {"stale": {"versions": 1}}},
                 "defence": "median"},
}  # fmt: skip


def experiments(*changes: dict[str, Any], **base: Any) -> list[Experiment]:
    found = []
    for change in changes:
        [arm] = scenario.read({**SMALL, **base, **change})
        found.append(assemble(arm))
    return found


def yielded(run: Run) -> dict[str, Any]:
    """All that a run says, but for how long it took."""
    receipt = {key: value for key, value in run.receipt.items() if key != "wall_seconds"}
    return receipt | {"rows": run.trace.to_csv(), "weights": {name: w.tobytes() for name, w in run.weights.items()}}


def alike(many: list[Experiment], tmp_path: Path) -> None:
    """Abreast they yield what each does alone."""
    names = {timeline(one) for one in many}
    assert len(names) == 1
    assert None not in names
    paths = [tmp_path / f"abreast-{number}" for number in range(len(many))]
    assert conduct_together(many, paths) == []
    for number, one in enumerate(many):
        alone = conduct(one, tmp_path / f"alone-{number}")
        assert yielded(fedsim.load(paths[number])) == yielded(alone)
        assert {path.name for path in paths[number].iterdir()} == {path.name for path in alone.path.iterdir()}


@pytest.mark.parametrize("way", WAYS)
def test_learning_seeds_abreast_are_each_alone(tmp_path, way) -> None:
    many = experiments({"learning_seed": 3}, {"learning_seed": 4}, {}, **WAYS[way])
    alike(many, tmp_path)
    one, other, usual = (fedsim.load(tmp_path / f"abreast-{number}") for number in range(3))
    assert yielded(one)["weights"] != yielded(other)["weights"]
    assert yielded(one)["weights"] == yielded(usual)["weights"], "the seed is the learning seed where none is said"


def test_so_are_other_rates_models_and_server_steps(tmp_path) -> None:
    slow = local(optimizer={"sgd": {"lr": 0.01, "momentum": 0.9}})
    server = {"aggregator": {"fedbuff": {"concurrency": 6, "goal": 3, "lr": 0.5}}}
    alike(experiments({}, slow, server), tmp_path)


def test_it_is_not_only_the_learning_seed_that_names_a_timeline() -> None:
    usual, *others = experiments(
        {}, {"seed": 4}, local(steps=4), {"model": "logistic"},
        {"until": {"versions": 7}}, {"evaluate": {"every": "2 min"}}, {"wire": {"codec": "float16"}},
        fleet(drop=0.1), {"network": {"star": {"latency": "1 s"}}},
        local(shrink={"factor": 0.5, "every": 2}),
        local(objective={"adversarial": {"radius": 0.1, "step": 0.1, "steps": 1}}),
    )  # fmt: skip
    assert timeline(usual) not in {timeline(other) for other in others}


@pytest.mark.parametrize(
    "change",
    [{"until": {"versions": 6, "accuracy": 0.9}}, {"select": {"oort": {}}}, {"executor": "null"},
     {"aggregator": None, "peers": "gossip", "network": "ring", "fleet": {"clients": 4, "devices": "fedscale"}},
     local(personal=["1."])],
)  # fmt: skip
def test_what_may_depend_on_numbers_has_its_own_timeline(change) -> None:
    [one] = experiments(change)
    assert timeline(one) is None


def test_who_decides_otherwise_is_left_behind(tmp_path) -> None:
    """Goals differ, which no count says beforehand: the servers' own decisions do."""
    goal = [{"aggregator": {"fedbuff": {"concurrency": 6, "goal": goal}}} for goal in (3, 4, 3, 4)]
    many = experiments(*goal)
    assert len({timeline(one) for one in many}) == 1
    paths = [tmp_path / str(number) for number in range(4)]
    assert conduct_together(many, paths) == [1, 3]
    assert [fedsim.load(path).finished for path in paths] == [True, False, True, False]
    assert yielded(fedsim.load(paths[2])) == yielded(conduct(many[2], tmp_path / "alone"))


def test_who_fails_leaves_the_others_to_go_on(tmp_path) -> None:
    bad = local(optimizer={"sgd": {"lr": 1e30}})
    many = experiments(bad, {}, bad)
    paths = [tmp_path / str(number) for number in range(3)]
    assert conduct_together(many, paths) == []
    assert [fedsim.load(path).finished for path in paths] == [False, True, False]
    assert "diverged" in (paths[2] / "failure.json").read_text()
    assert yielded(fedsim.load(paths[1])) == yielded(conduct(many[1], tmp_path / "alone"))
    assert conduct_together(experiments(bad, bad), [tmp_path / "4", tmp_path / "5"]) == []
    assert (tmp_path / "5" / "failure.json").exists()


def test_time_that_comes_to_nothing_does_so_for_all(tmp_path) -> None:
    many = experiments({}, {"learning_seed": 9}, **fleet(drop=1.0))
    assert conduct_together(many, [tmp_path / "0", tmp_path / "1"]) == []
    assert all("Stalled" in (tmp_path / name / "failure.json").read_text() for name in "01")


def test_an_update_that_has_arrived_has_done_so_for_all() -> None:
    """By this a synchronous server's clients train in company, which changes no number."""
    one, other = SimpleNamespace(arrived=False), SimpleNamespace(arrived=False)
    both = Together({0: one, 2: other})
    assert not both.arrived
    both.arrived = True
    assert one.arrived
    assert other.arrived


def test_it_passes_time_once(tmp_path, monkeypatch) -> None:
    steps = []
    monkeypatch.setattr(Clock, "step", lambda self, once=Clock.step: (steps.append(self), once(self)))
    conduct_together(experiments({}, {"learning_seed": 4}, {"learning_seed": 5}), [tmp_path / name for name in "012"])
    assert len(set(map(id, steps))) == 1


def test_global_randomness_is_untouched(tmp_path) -> None:
    def state() -> str:
        return repr((random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()))

    before = state()
    conduct_together(experiments({}, {"learning_seed": 4}), [tmp_path / "0", tmp_path / "1"])
    assert state() == before
