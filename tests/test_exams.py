"""What models are asked beside their scores: every exam leaves all as it was, and sharpness is its definition."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from fedsim import experiment, scenario
from fedsim.data import Digits
from fedsim.errors import ScenarioError
from fedsim.exams import EXAMS
from fedsim.exams.sharpness import Steepness
from fedsim.models import initial_params
from fedsim.models.dense import mlp
from fedsim.vector import Layout

DIGITS = {
    "seed": 3,
    "until": {"versions": 2},
    "data": "digits",
    "model": {"mlp": {"hidden": [8]}},
    "fleet": {"clients": 4, "devices": "fedscale"},
    "local": {"steps": 2, "batch": 16, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
}
LOCAL = DIGITS["local"]
ASKED = {
    "sharpness": {},
    "reconstruction": {"model": {"mlp": {"hidden": [8], "further": 64}}, "local": {**LOCAL, "objective": "together"}},
    "paths": {"data": {"grid_world": {"side": 4, "walks": 40}}},
    "guided": {"data": {"noisy_digits": {"draws": 1}}},
    "generated": {"data": {"seeded_digits": {"draws": 1}}, "model": {"gan": {"hidden": [8]}},
                  "local": {**LOCAL, "objective": "players", "source": "game"}},
    "attention": {"data": "test_local_steps:Letters", "local": {**LOCAL, "objective": "sparse_attention"},
                  "model": {"transformer": {"width": 8, "layers": 1, "heads": 2, "block": 4, "blocks": 2}}},
}  # fmt: skip


def made(exam, **changes) -> experiment.Experiment:
    [arm] = scenario.read(DIGITS | changes | {"evaluate": {"every": "1 h", "exam": exam}})
    return experiment.assemble(arm)


def test_every_exam_is_tried_here() -> None:
    assert set(ASKED) == set(EXAMS)


@pytest.mark.parametrize("name", ASKED)
def test_an_exam_leaves_all_as_it_was_and_says_the_same_again(name) -> None:
    there = made(name, **ASKED[name])
    before = there.params.clone()
    state = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    first = there.evaluator(there.params).metrics
    again = there.evaluator(there.params.clone()).metrics
    assert first == again
    plain = made("sharpness", **ASKED["sharpness"]).evaluator(made("sharpness").params).metrics
    assert set(first) - (set(plain) - {"sharpness"}), "it says something"
    assert all(np.isfinite(value) for value in first.values())
    assert torch.equal(there.params, before)
    assert random.getstate() == state[0]
    assert np.array_equal(np.random.get_state()[1], state[1])
    assert torch.equal(torch.random.get_rng_state(), state[2])


def test_sharpness_is_the_rise_along_the_gradient() -> None:
    data = Digits().load()
    module, flat = initial_params(lambda: mlp((1, 8, 8), 10, [8]), 1)
    layout = Layout.of(module)
    point = flat.clone().requires_grad_()
    rows = torch.linspace(0, len(data) - 1, 200).long()

    def loss(at: torch.Tensor) -> torch.Tensor:
        return cross_entropy(functional_call(module, layout.unflatten(at), (data.x[rows],)), data.y[rows])

    [slope] = torch.autograd.grad(loss(point), [point])
    expected = float(loss(flat + 0.1 * slope / slope.norm()) - loss(flat))
    found = Steepness(radius=0.1, examples=200).grade(module, layout.unflatten(flat), data)
    assert found == {"sharpness": pytest.approx(expected, rel=1e-3)}
    assert expected == pytest.approx(0.1 * float(slope.norm()), rel=0.1), "and, nearby, the slope's length"


def test_what_cannot_be_asked_is_one_line() -> None:
    with pytest.raises(ScenarioError, match="sharpness is of a loss of all scores"):
        made("sharpness", **ASKED["reconstruction"])
