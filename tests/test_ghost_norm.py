"""Ghost Batch Normalization: what its chunks are, and that everything that takes gradients takes them of it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import fedsim
from fedsim.errors import ScenarioError
from fedsim.gradients import Gradients
from fedsim.gradients.single import Single
from fedsim.gradients.vmapped import Vmapped
from fedsim.models import MODELS, check_trainable, initial_params
from fedsim.models.normalisation import BatchNorm, GhostNorm, estimated, fixed
from fedsim.vector import Layout


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def build(norm: str = "ghost", ghost: int = 4) -> nn.Module:
    make = partial(MODELS["mlp"], (6,), 3, hidden=[8, 5], norm=norm, ghost=ghost)
    return initial_params(make, seed=1)[0]


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 3, 2)])
def test_one_ghost_of_the_whole_batch_is_batchnorm(shape) -> None:
    x = draw(*shape)
    for ghost in (12, 13, 100):
        assert torch.equal(GhostNorm(5, ghost)(x), BatchNorm(5)(x))


def test_each_chunk_has_mean_0_and_variance_1_before_scale_and_shift() -> None:
    layer, x = GhostNorm(5, 8), draw(24, 5)
    for chunk in layer(x).split(8):
        torch.testing.assert_close(chunk.mean(0), torch.zeros(5), rtol=0, atol=1e-6)
        torch.testing.assert_close(chunk.var(0, correction=0), torch.ones(5), rtol=0, atol=1e-4)
    plain = layer(x)
    with torch.no_grad():
        layer.weight.fill_(2)
        layer.bias.fill_(3)
    torch.testing.assert_close(layer(x), 2 * plain + 3)


@pytest.mark.parametrize(("batch", "sizes"), [(9, [4, 5]), (11, [4, 7]), (8, [4, 4]), (7, [7]), (3, [3]), (1, [1])])
def test_what_is_left_over_joins_the_last_chunk(batch, sizes) -> None:
    x = draw(batch, 5)
    expected = torch.cat([BatchNorm(5)(chunk) for chunk in x.split(sizes)])
    torch.testing.assert_close(GhostNorm(5, 4)(x), expected)


def test_an_order_within_a_chunk_changes_the_order_alone_and_across_chunks_more() -> None:
    layer, x = GhostNorm(5, 4), draw(8, 5)
    within, across = [2, 0, 3, 1, 4, 5, 6, 7], [4, 1, 2, 3, 0, 5, 6, 7]
    torch.testing.assert_close(layer(x[within]), layer(x)[within])
    assert not torch.allclose(layer(x[across]), layer(x)[across], atol=1e-2)


def test_a_chunk_of_equal_examples_is_finite() -> None:
    x = draw(8, 5)
    x[:4] = 7.0
    torch.testing.assert_close(GhostNorm(5, 4)(x)[:4], torch.zeros(4, 5), rtol=0, atol=1e-3)


def test_measured_it_is_an_ordinary_batchnorm_whatever_its_ghosts() -> None:
    models = [build("ghost", 4), build("ghost", 2), build("batch")]
    named, x = dict(models[0].named_parameters()), draw(10, 6, seed=2)
    statistics = estimated(models[0], named, [draw(8, 6, seed=seed) for seed in (3, 4)])
    with fixed(models, statistics):
        one, *others = [torch.func.functional_call(model, named, (x,)) for model in models]
        alone = torch.func.functional_call(models[0], named, (x[:1],))
    assert all(torch.equal(one, other) for other in others)
    torch.testing.assert_close(alone, one[:1])
    assert not torch.allclose(models[0](x), one, atol=1e-2)  # outside, it is the batch's own again


def test_its_statistics_are_the_mean_over_chunks() -> None:
    layer, x = GhostNorm(5, 4), draw(8, 5)
    [(mean, variance)] = estimated(layer, dict(layer.named_parameters()), [x])
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(variance, torch.stack([chunk.var(0) for chunk in x.split(4)]).mean(0))


def test_gradients_are_the_mean_of_those_of_the_chunks() -> None:
    """As in the paper's code, which has no such layer: it averages gradients of small batches with BatchNorm."""
    x, y = draw(1, 8, 6), torch.arange(8).remainder(3).unsqueeze(0)
    ghosts, model = Single(build("ghost")), build("batch")
    named = {name: part.detach().unsqueeze(0) for name, part in model.named_parameters()}
    whole, _ = ghosts(named, x, y)
    first, second = (Single(model)(named, x[:, half], y[:, half])[0] for half in (slice(4), slice(4, 8)))
    for name, part in whole.items():
        torch.testing.assert_close(part, (first[name] + second[name]) / 2)


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_sources_agree_on_gradients_and_along_a_direction(name) -> None:
    shape = (6,) if name == "mlp" else (1, 6, 6)
    sizes = {"hidden": [8]} if name == "mlp" else {"width": 8, "blocks": (1,)}
    model, flat = initial_params(lambda: MODELS[name](shape, 3, norm="ghost", ghost=4, **sizes), seed=1)
    check_trainable(model)
    layout = Layout.of(model)
    params, direction = (layout.unflatten(part) for part in (flat.repeat(2, 1), draw(2, layout.size) / 100))
    x, y = draw(2, 9, *shape), torch.arange(18).remainder(3).view(2, 9)
    stacked, lone = Vmapped(model), Single(model)
    both = looked(stacked, params, x, y, direction)
    for k in range(2):
        one = {part: rows[k : k + 1] for part, rows in params.items()}
        along = {part: rows[k : k + 1] for part, rows in direction.items()}
        alone = looked(lone, one, x[k : k + 1], y[k : k + 1], along)
        for part, rows in both.items():
            torch.testing.assert_close(rows[k : k + 1], alone[part], rtol=1e-4, atol=1e-4)


def looked(source: Gradients, params, x, y, direction) -> dict[str, Tensor]:
    grads, losses = source(params, x, y)
    bends = source.hvp(params, x, y, direction)
    change = source.jvp(params, x, direction)
    return {"losses": losses, "change": change, **grads, **{f"{name} bend": part for name, part in bends.items()}}


SCENARIO = {
    "until": {"versions": 3},
    "data": {"digits": {"partition": "iid"}},
    "model": {"mlp": {"hidden": [16], "norm": "ghost", "ghost": 8}},
    "fleet": {"clients": 4, "devices": {"constant": {"per_example": "1 ms"}}},
    "local": {"steps": 5, "batch": 32, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "100 ms"},
}


def test_a_scenario_learns_with_it(tmp_path) -> None:
    found = fedsim.run(SCENARIO, out=tmp_path, picture=False)
    assert found.metrics.accuracy.iloc[-1] > 0.6  # 0.1 at first


def test_examples_clipped_one_by_one_have_no_batch_to_be_normalised_by(tmp_path) -> None:
    with pytest.raises(ScenarioError, match=r"local\.private: .*BatchNorm"):
        fedsim.run(SCENARIO, "local.private={clip: 1.0, multiplier: 1.0}", out=tmp_path, picture=False)


def test_a_ghost_of_one_example_is_refused(tmp_path) -> None:
    with pytest.raises(ScenarioError, match="ghost"):
        fedsim.run(SCENARIO, "model.mlp.ghost=1", out=tmp_path, picture=False)
