from __future__ import annotations

import inspect
import math
import random
from typing import get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.errors import ScenarioError
from fedsim.models import MODELS, check_trainable, initial_params, training_flops
from fedsim.vector import PIECE, Layout, weighted_sum

SHAPES = {
    "logistic": ((1, 8, 8), {}),
    "mlp": ((1, 8, 8), {"hidden": [12, 7]}),
    "binary_mlp": ((1, 8, 8), {"hidden": [12, 7]}),
    "cnn_mnist": ((1, 28, 28), {}),
    "cnn_cifar": ((3, 32, 32), {}),
    "cnn_group": ((3, 15, 13), {}),
    "cnn_plain": ((1, 14, 15), {}),
    "two_layer_relu": ((12,), {}),
    "resnet": ((3, 16, 16), {"width": 8}),
    "low_rank": ((3, 10), {"rank": 2}),
    "char_lstm": ((9,), {"vocabulary": 30, "hidden": 16}),
    "gan": ((64 + 5,), {"hidden": [7]}),
    "transformer": ((9,), {"vocabulary": 10, "width": 8, "block": 4}),
}
ASKED = {"two_layer_relu": 1, "gan": 2}
"""How many scores, where not any number will do."""


def example(name: str, batch: int) -> torch.Tensor:
    shape, _ = SHAPES[name]
    numbers = torch.arange(batch * math.prod(shape)).reshape(batch, *shape)
    return numbers % 10 if name in ("char_lstm", "transformer") else numbers % 30 * 0.1


def build(name: str) -> nn.Module:
    shape, arguments = SHAPES[name]
    return MODELS[name](shape, ASKED.get(name, 10), **arguments)


def outputs(name: str) -> int:
    return 10 * 9 + 3 if name == "transformer" else ASKED.get(name, 10)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_scores_classes_and_has_a_price(name):
    module, params = initial_params(lambda: build(name), seed=1)
    before = [buffer.clone() for buffer in module.buffers()]
    assert module(example(name, 3)).shape == (3, outputs(name))
    assert training_flops(module, example(name, 1)) > 2 * params.numel() * (name in ("logistic", "mlp"))
    assert all(map(torch.equal, before, module.buffers())), "training would change what nobody shares"


@pytest.mark.parametrize("name", MODELS)
def test_the_signature_is_a_schema(name):
    hints = get_type_hints(MODELS[name], include_extras=True)
    assert set(inspect.signature(MODELS[name]).parameters) <= set(hints)
    assert list(inspect.signature(MODELS[name]).parameters)[:2] == ["shape", "classes"]


def test_the_published_counts_of_parameters():
    def count(name: str, shape: tuple[int, ...], **arguments: object) -> int:
        return Layout.of(MODELS[name](shape, 10, **arguments)).size

    assert count("cnn_mnist", (1, 28, 28)) == 1_663_370  # McMahan et al., 2017, section 3
    assert count("mlp", (1, 28, 28), hidden=[200, 200]) == 199_210  # same place, "2NN"
    assert count("cnn_cifar", (3, 24, 24)) == 1_068_298
    assert count("logistic", (784,)) == 7850


def test_the_small_cnn_by_hand():
    """Weights, then two numbers a channel of GroupNorm; an image of 28 is halved to 14 and 7, one of 5 to 3 and 2."""
    convolutions = 9 * 16 + 2 * 16 + 9 * 16 * 32 + 2 * 32
    for side, left in ((28, 7), (5, 2)):
        module = MODELS["cnn_group"]((1, side, side), 10)
        assert Layout.of(module).size == convolutions + 32 * left**2 * 10 + 10
    flops = 2 * (14 * 14 * 9 * 16 + 7 * 7 * 9 * 16 * 32 + 32 * 49 * 10)
    twice, first = 3 * flops, 2 * 14 * 14 * 9 * 16  # the first layer's input needs no gradient
    assert training_flops(MODELS["cnn_group"]((1, 28, 28), 10), torch.zeros(1, 1, 28, 28)) == twice - first
    assert [layer.num_groups for layer in MODELS["cnn_group"]((1, 9, 9), 10, (8, 4, 12), 4)[1::3][:3]] == [4, 4, 4]


def test_the_start_depends_on_the_seed_alone_and_leaves_no_trace():
    states = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist(), torch.get_rng_state()
    first = initial_params(lambda: build("mlp"), seed=1)[1]
    assert states[0] == random.getstate()
    assert states[1] == np.random.get_state(legacy=False)["state"]["key"].tolist()
    assert torch.equal(states[2], torch.get_rng_state())
    torch.rand(3)  # the global state is another now
    assert torch.equal(first, initial_params(lambda: build("mlp"), seed=1)[1])
    assert not torch.equal(first, initial_params(lambda: build("mlp"), seed=2)[1])


def test_flops_are_those_of_the_products():
    logistic = MODELS["logistic"]((64,), 10)
    assert training_flops(logistic, torch.zeros(1, 64)) == 2 * (2 * 640)  # forward, weights; nothing flows to the input
    mlp = MODELS["mlp"]((64,), 10, hidden=[120])
    assert training_flops(mlp, torch.zeros(1, 64)) == 2 * (2 * 64 * 120 + 3 * 120 * 10)
    conv = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 25, 2))
    assert training_flops(conv, torch.zeros(1, 1, 5, 5)) == 2 * (2 * 25 * 9 * 4 + 3 * 100 * 2)


def test_flops_of_an_lstm_are_those_of_its_products():
    length, embedding, hidden = 9, 8, 16
    module = MODELS["char_lstm"]((length,), 10, vocabulary=30, embedding=embedding, hidden=hidden, layers=1)
    gates = 4 * hidden * (embedding + hidden) * length
    first_memory = 4 * hidden * hidden  # is zero and constant, so no gradient flows into it
    expected = 2 * (3 * gates - first_memory + 3 * hidden * 10)
    assert training_flops(module, torch.zeros(1, length, dtype=torch.int64)) == expected


def test_an_example_that_does_not_fit_is_refused():
    with pytest.raises(ScenarioError, match=r"^model: its FLOPs are counted .* there it fails: RuntimeError: "):
        training_flops(MODELS["logistic"]((64,), 10), torch.zeros(1, 65))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm1d(4), "BatchNorm1d"),
        (nn.InstanceNorm1d(4, track_running_stats=True), "InstanceNorm1d"),
        (nn.Dropout(0.5), "drops units"),
        (nn.LSTM(4, 4, 2, dropout=0.5), "drops units"),
        (nn.ReLU(), "no parameters"),
        (nn.Linear(2, 2).requires_grad_(False), "frozen"),
    ],
)
def test_modules_without_a_policy_are_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        check_trainable(nn.Sequential(layer))


def test_nonsense_arguments_are_refused():
    with pytest.raises(ValueError, match="divide"):
        MODELS["resnet"]((3, 8, 8), 10, width=12, groups=8)
    with pytest.raises(ValueError, match=r"groups \(8\) must divide channels \(16, 20\)"):
        MODELS["cnn_group"]((3, 8, 8), 10, channels=(16, 20))
    with pytest.raises(ValueError, match="needs images"):
        MODELS["cnn_group"]((64,), 10)
    with pytest.raises(ValueError, match="images"):
        MODELS["cnn_mnist"]((64,), 10)
    with pytest.raises(ValueError, match="text"):
        MODELS["char_lstm"]((64,), 10, vocabulary=0)


@pytest.mark.parametrize("name", MODELS)
def test_layout_round_trip_and_views(name):
    module, params = initial_params(lambda: build(name), seed=1)
    layout = Layout.of(module)
    stack = torch.stack([params, 2 * params])
    named = layout.unflatten(stack)
    assert torch.equal(layout.join(named), stack)
    for key, parameter in module.named_parameters():
        assert torch.equal(named[key][1], 2 * parameter)
        named[key].zero_()
    assert not stack.any()
    with pytest.raises(ValueError, match="parameters"):
        layout.unflatten(params[:-1])


def test_weighted_sum_is_exact_beyond_float32():
    rows = [torch.tensor([2.0**24]), torch.tensor([1.0]), torch.tensor([-(2.0**24)])]
    assert weighted_sum(rows, [1, 1, 1]) == torch.tensor([1.0])  # float32 would lose the one
    assert weighted_sum(rows, [1, 1, 1]).dtype == torch.float32
    long = torch.randn(3, 2 * PIECE + 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        weighted_sum(list(long), [0.5, 2, 3]), long.double().mul(torch.tensor([[0.5], [2], [3]])).sum(0).float()
    )
    nothing = weighted_sum([torch.zeros(0)] * 3, [1, 1, 1])
    assert (nothing.shape, nothing.dtype) == ((0,), torch.float32)
    for rows, weights in (([], []), ([torch.ones(2)], [1.0, 2.0])):
        with pytest.raises(ValueError, match="weights"):
            weighted_sum(rows, weights)
