"""Clients whose examples are drawn anew for each training: by what law, and that nothing else depends on it."""

from __future__ import annotations

import numpy as np
import pytest
from test_partitions import counts, dataset
from test_training import DENSE, SEED, examples, same, tasks

import fedsim
from fedsim.data import Dataset, Parts, Resampled, WithReplacement
from fedsim.errors import ScenarioError
from fedsim.evaluation import Evaluator
from fedsim.models import MODELS, initial_params
from fedsim.optimizers import sgd
from fedsim.training import Trainer
from fedsim.vector import Layout

CLIENTS, SIZE = 5, 4000


def shares(parts: Parts, data: Dataset, client: int, ordinals: range) -> np.ndarray:
    """Of each class in each of these draws, (ordinals, classes)."""
    return np.stack([counts(data, parts.held(client, ordinal)) for ordinal in ordinals]) / SIZE


def test_draws_follow_the_clients_mix_which_stays() -> None:
    """The mix is with_replacement's, there met to 1 / size; a share has the deviation of a binomial law."""
    data = dataset(300)
    parts = Resampled(0.5, SIZE).split(data, CLIENTS, seed=1)
    exact = WithReplacement(0.5, examples=SIZE).split(data, CLIENTS, seed=1)
    for client in range(CLIENTS):
        mix = counts(data, exact.indices[client]) / SIZE
        found = shares(parts, data, client, range(20))
        deviation = np.sqrt(mix * (1 - mix) / SIZE)
        assert (np.abs(found - mix) < 5 * deviation + 6 / SIZE).all()  # rare classes are Poisson
        np.testing.assert_allclose(found.std(0), deviation, rtol=0.6, atol=2 / SIZE)
        assert mix.max() - mix.min() > 0.1


def test_a_class_is_drawn_from_evenly_and_from_all_of_the_set() -> None:
    parts = Resampled(0, 3000).split(dataset(300), 10, seed=1)
    times = np.bincount(parts.held(3, 7), minlength=300)
    members = times[np.arange(300) % 10 == 3]
    assert times.sum() == members.sum() == 3000
    assert abs(members - 100).max() < 50  # binomial: 100 +- 10


def test_every_training_has_a_draw_of_its_own_by_address() -> None:
    data = dataset(300)
    one, two = (Resampled(0.3, 50).split(data, CLIENTS, seed=1) for _ in range(2))
    other = Resampled(0.3, 50).split(data, CLIENTS, seed=2)
    keys = [(client, ordinal) for client in range(CLIENTS) for ordinal in range(4)]
    forth = {key: one.held(*key) for key in keys}
    back = {key: two.held(*key) for key in reversed(keys)}
    assert all(np.array_equal(forth[key], back[key]) for key in keys)
    assert len({tuple(draw) for draw in forth.values()}) == len(keys)
    assert {len(draw) for draw in forth.values()} == set(one.sizes) == {50}
    assert all(np.array_equal(one.indices[client], forth[client, 0]) for client in range(CLIENTS))
    assert not np.array_equal(other.held(0, 1), forth[0, 1])
    alike = Resampled(0, 50).split(data, 11, seed=1)  # clients 0 and 10 have the same class
    assert not np.array_equal(alike.held(0, 1), alike.held(10, 1))


def test_absent_classes_are_never_drawn() -> None:
    data = dataset(90, labels=np.arange(90) % 3 * 4)  # classes 0, 4 and 8 of ten
    parts = Resampled(0.5, 30).split(data, 40, seed=1)
    assert set(parts.sizes) == {30}
    assert {int(label) for part in parts.indices for label in data.y.numpy()[part]} == {0, 4, 8}


def test_parts_that_stay_are_held_at_every_training() -> None:
    parts = Parts([np.arange(3), np.arange(5)])
    assert parts.held(1, 0) is parts.held(1, 9) is parts.indices[1]


def test_nonsense_is_refused() -> None:
    for alpha in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="alpha"):
            Resampled(alpha)
    with pytest.raises(ScenarioError, match="drawn anew cannot have labels"):
        Parts([np.arange(2)], labels=[np.arange(2)], redraw=lambda client, ordinal: np.arange(2))


# Training -------------------------------------------------------------------------------------------------------------


def trainer(parts: Parts) -> Trainer:
    return Trainer(initial_params(DENSE["mlp"], 1)[0], *examples((64,)), parts, 10, sgd(0.05), SEED)


def split() -> Parts:
    x, y = examples((64,))
    return Resampled(0.3, 25).split(Dataset(x, y, x, y, 10), 12, SEED)


def test_a_training_sees_its_own_draw_alone_or_in_company() -> None:
    parts, work = split(), tasks(DENSE["mlp"], 12)
    together = trainer(parts)(work)
    assert {task.ordinal for task in work} == {0, 1}
    for task, result in zip(work, together, strict=True):
        fixed = Parts([parts.held(client, task.ordinal) for client in range(12)])
        assert same(result, trainer(fixed)([task])[0])
        assert same(result, trainer(parts)([task])[0])
        assert same(result, trainer(Parts(parts.indices))([task])[0]) == (task.ordinal == 0)


def test_the_objective_is_measured_on_the_first_draw() -> None:
    x, y = examples((64,))
    data, parts = Dataset(x, y, x, y, 10), split()
    module, params = initial_params(lambda: MODELS["logistic"]((64,), 10), 1)
    of_draws, of_first = (
        Evaluator(module, Layout.of(module), data, given, train=True)(params) for given in (parts, Parts(parts.indices))
    )
    assert of_draws.metrics == of_first.metrics


def test_whole_runs_are_the_same_whatever_the_executor(tmp_path) -> None:
    scenario = {
        "seed": 3,
        "until": {"versions": 6},
        "data": {"digits": {"partition": {"resampled": {"alpha": 0.1, "size": 40}}}},
        "model": "logistic",
        "fleet": {"clients": 11, "devices": "fedscale", "drop": 0.05},
        "local": {"steps": 3, "batch": 8, "optimizer": {"sgd": {"lr": 0.1}}},
        "aggregator": {"fedbuff": {"concurrency": 6, "goal": 3}},
        "evaluate": {"every": "1 s"},
    }
    runs = [fedsim.run(scenario, f"executor={name}", out=tmp_path) for name in ("inline", "stacked")]
    for name in ("metrics.csv", "model.safetensors"):
        assert runs[0].receipt["digests"][name] == runs[1].receipt["digests"][name]
