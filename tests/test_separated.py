"""The data and the network of the theory of federated adversarial learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.data import Separated
from fedsim.errors import ScenarioError
from fedsim.models import MODELS, initial_params


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("mixed", [True, False])
def test_points_are_on_the_sphere_and_gamma_apart_and_no_nearer(gamma, mixed) -> None:
    data = Separated(seed=2, clients=3, gamma=gamma, dimension=24, pairs=4, mixed=mixed).load()
    x, y = data.x.double().numpy(), data.y.numpy().ravel()
    assert np.linalg.norm(x, axis=1) == pytest.approx(np.ones(24), abs=1e-6)
    apart = np.linalg.norm(x[:, None] - x[None], axis=2) + 10 * np.eye(24)
    assert apart.min() == pytest.approx(gamma, abs=1e-5)
    nearest = apart.argmin(axis=1)
    assert (y[nearest] == -y).all()
    assert sorted(y) == [-1.0] * 12 + [1.0] * 12
    labels = [set(y[data.groups == client]) for client in range(3)]
    assert all(own == {1.0, -1.0} for own in labels) == mixed


def test_where_there_is_no_room_that_is_said() -> None:
    with pytest.raises(ScenarioError, match="no room for 500 pairs 1 apart in 2 dimensions"):
        Separated(seed=1, clients=100, gamma=1.0, dimension=2, pairs=5).load()


def test_of_the_network_only_inner_weights_are_trained() -> None:
    module, params = initial_params(lambda: MODELS["two_layer_relu"]((6,), 1, width=400), seed=1)
    assert len(params) == 400 * 6
    assert float(params.std()) == pytest.approx(1 / 20, rel=0.05)
    assert float(module.biases.std()) == pytest.approx(1 / 20, rel=0.15)
    assert module.signs.abs().unique().tolist() == [pytest.approx(400 ** (-1 / 3))]
    x = torch.eye(6)
    expected = ((x @ module.weight.T + module.biases).clamp_min(0) * module.signs).sum(1, keepdim=True)
    torch.testing.assert_close(module(x), expected)
    with pytest.raises(ValueError, match="one score"):
        MODELS["two_layer_relu"]((6,), 10)


def test_adversarial_training_lowers_the_robust_loss_of_it() -> None:
    attack = {"radius": 0.03, "step": 0.01, "steps": 3, "norm": "l2", "low": -1, "high": 1}
    [arm] = scenario.read({
        "until": {"versions": 15}, "data": {"separated": {"clients": 3, "gamma": 0.5, "pairs": 2}},
        "model": {"two_layer_relu": {"width": 64}},
        "fleet": {"clients": 3, "devices": {"constant": {"per_example": "1 ms"}}},
        "local": {"steps": 5, "batch": 4, "optimizer": {"sgd": {"lr": 0.1}}, "objective": {"adversarial": attack}},
        "aggregator": {"fedavg": {"cohort": "all"}}, "evaluate": {"every": "1 h", "train": True, "robust": attack},
    })  # fmt: skip
    simulation = experiment.assemble(arm).simulation(Recording())
    simulation.run()
    first, last = simulation.progress.rows[0], simulation.progress.rows[-1]
    assert last["train_robust_loss"] < 0.95 * first["train_robust_loss"]
    assert last["train_robust_loss"] > last["train_loss"]
