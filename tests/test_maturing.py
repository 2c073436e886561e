"""An o that grows while a run goes on: every training, measurement and stack has that of its own version."""

from __future__ import annotations

from dataclasses import replace
from math import cos, pi

import pytest
import torch
from test_binary import SCENARIO
from worlds import Recording, changed

import fedsim
from fedsim import experiment, scenario, training
from fedsim.errors import ScenarioError
from fedsim.gradients import Vmapped
from fedsim.models.binary import Maturing, Rising, at, binary_weights, estimating_error
from fedsim.work import LocalTask

RISING = {"first": 1.0, "last": 3.0}


def assembled(o=None, norm="batch", local=None, **changes) -> experiment.Experiment:
    model = {"binary_mlp": {"hidden": [16, 16], "o": o or RISING, "norm": norm}}
    local = {**SCENARIO["local"], "steps": 3, **(local or {})}
    [arm] = scenario.read({**SCENARIO, "model": model, "local": local, **changes})
    return experiment.assemble(arm)


def o_at(version: int, versions: int = 4) -> float:
    """By the definition."""
    return 1 + (1 - cos(pi / 2 * version / versions)) * 2


def test_it_grows_as_in_the_paper() -> None:
    grown = [Rising().at(version / 4) for version in range(6)]
    assert grown == pytest.approx([*map(o_at, range(5)), 3.0])
    assert grown == sorted(grown)
    assert Rising(first=2.0, last=5.0).at(0.0) == 2
    assert Rising(first=2.0, last=5.0).at(1.0) == pytest.approx(5)


def test_a_model_is_itself_or_a_copy_as_it_is_at_a_version() -> None:
    growing, fixed = (assembled(o).trainer.model for o in (None, 2.0))
    assert at(fixed, 3) is fixed
    assert isinstance(growing, Maturing)
    assert list(binary_weights(growing).values()) == [1.0]
    assert list(binary_weights(at(growing, 3)).values()) == [pytest.approx(o_at(3))]
    assert list(binary_weights(growing).values()) == [1.0], "the model itself stays as it is"
    assert dict(growing.named_parameters()).keys() == dict(fixed.named_parameters()).keys()


@pytest.mark.parametrize("version", [0, 1, 4, 7])
def test_a_training_has_the_o_of_the_version_it_starts_from(version) -> None:
    made, fixed = assembled(), assembled(o_at(min(version, 4)))
    assert torch.equal(made.params, fixed.params)
    task = LocalTask(1, made.params, 2, 3, version=version)
    [own], [expected] = made.trainer([task]), fixed.trainer([task])
    assert torch.equal(own.delta, expected.delta)
    [other] = made.trainer([replace(task, version=2)])
    assert not torch.equal(own.delta, other.delta)


def test_a_stack_of_different_versions_is_each_alone(monkeypatch) -> None:
    """As where clients train side by side: on a GPU, whose source this is."""
    monkeypatch.setattr(training, "choose", lambda module, *_: (Vmapped(module), 64))
    made = assembled()
    assert made.trainer.cohort == 64
    tasks = [LocalTask(client, made.params, 0, 3 - client % 2, version=client // 2) for client in range(4)]
    assert sorted(map(len, made.trainer._stacks(tasks))) == [2, 2]
    for task, result in zip(tasks, made.trainer(tasks), strict=True):
        fixed = assembled(o_at(task.version))
        for alone in (*made.trainer([task]), *fixed.trainer([task])):
            torch.testing.assert_close(result.delta, alone.delta, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("server", [{"fedbuff": {"concurrency": 3, "goal": 2}}, {"fedstale": {"beta": 0.5}}])
def test_in_whatever_company_under_any_server(server) -> None:
    ends = []
    for executor in ("inline", "stacked"):
        _, simulation = changed({**SCENARIO, "model": {"binary_mlp": {"hidden": [16, 16], "o": RISING}}},
                                aggregator=server, executor=executor)  # fmt: skip
        ends.append(simulation.aggregator.params)
    assert torch.equal(*ends)


def test_indicators_are_those_of_the_version_that_is_measured(tmp_path) -> None:
    keys = {**SCENARIO, "model": {"binary_mlp": {"hidden": [16, 16], "o": RISING}}, "evaluate": {"every": "320 ms"}}
    growing = fedsim.run(keys, out=tmp_path, picture=False)
    end = torch.from_numpy(growing.weights["3.weight"])
    assert growing.metrics.version.iloc[-1] == 4
    assert growing.metrics.estimating_error.iloc[-1] == pytest.approx(estimating_error([end], 3.0), rel=1e-5)
    fixed = fedsim.run(keys, "model.binary_mlp.o=1", out=tmp_path, picture=False)
    for name in ("estimating_error", "gradient_variance"):
        assert growing.metrics[name].iloc[0] == fixed.metrics[name].iloc[0]


def test_batches_that_grow_are_asked_by_the_same_o() -> None:
    local = {"growth": {"norm_test": {"eta": 0.7}}, "batch": 4, "steps": 20}
    task = LocalTask(1, torch.zeros(0), 0, 20, version=4)
    results = []
    for o in (None, 3.0):
        made = assembled(o, norm="layer", local=local)
        results += made.trainer([replace(task, params=made.params)])
        results.append(made.trainer.paces)
    assert torch.equal(results[0].delta, results[2].delta)
    assert results[1] == results[3]


def test_what_is_attacked_for_evaluation_has_it_too(monkeypatch) -> None:
    made = assembled(evaluate={"every": "10 s", "robust": {"radius": 0.1, "step": 0.05, "steps": 2}})
    simulation = made.simulation(Recording())
    simulation.progress.version = 4
    simulation.progress.evaluate(made.params)
    robust = made.evaluator.robust
    assert robust is not None
    assert list(binary_weights(robust.source.module).values()) == [3.0]  # type: ignore[attr-defined]


CODED = {"coding": {"gc": {"stragglers": 1}}, "aggregator": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"until": {"time": "9 s"}}, "model.binary_mlp: an o that grows over the run needs until.versions"),
     ({"o": {"last": 0.5}}, "greater than or equal to 1"),
     ({"local": {"steps": 1}, **CODED}, "its o grows")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(changes, message) -> None:
    with pytest.raises(ScenarioError, match=message):
        assembled(**changes)
