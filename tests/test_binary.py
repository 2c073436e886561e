"""Networks of signs: the estimate of the sign's derivative, and that all sources of gradients take the same one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp

import fedsim
from fedsim.errors import ScenarioError
from fedsim.gradients import Gradients
from fedsim.gradients.per_example import PerExample
from fedsim.gradients.single import Single
from fedsim.gradients.vmapped import Vmapped
from fedsim.models import MODELS, initial_params
from fedsim.models.binary import FAR, NEAR, BinaryLinear, estimating_error, gradient_variance, power, sign, slope
from fedsim.vector import Layout

EXPONENTS = (1.0, 1.5, 3.0, 10.0)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def derivative(z: Tensor, o: float) -> Tensor:
    """By autograd, through the sign."""
    point = z.clone().requires_grad_()
    [found] = torch.autograd.grad(sign(point, o).sum(), [point])
    return found


def test_there_are_two_signs_and_no_third() -> None:
    assert sign(torch.tensor([-2.0, -1e-30, -0.0, 0.0, 3.0]), 3).tolist() == [-1, -1, 1, 1, 1]


def test_with_1_it_is_the_clipped_straight_through_estimator() -> None:
    z = torch.linspace(-3, 3, 601)
    assert torch.equal(derivative(z, 1.0), (z.abs() <= FAR).float())


@pytest.mark.parametrize("o", EXPONENTS)
def test_the_slope_is_even_bounded_and_ends(o) -> None:
    z = torch.linspace(0.0, 3, 601, dtype=torch.float64)
    found = derivative(z, o)
    assert torch.equal(found, derivative(-z, o))
    assert float(found.max()) == pytest.approx(NEAR ** (1 / o - 1))
    assert float(derivative(torch.ones(1), o)) == pytest.approx(1 / o)
    assert not found[z > FAR].any()


@pytest.mark.parametrize("o", EXPONENTS)
def test_from_0_to_1_it_climbs_by_1(o) -> None:
    z = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert float(derivative(z, o).mean()) == pytest.approx(1, abs=1e-4)


def test_at_the_secants_end_it_jumps() -> None:
    below, above = derivative(torch.tensor([NEAR - 1e-4, NEAR + 1e-4]), 3.0).tolist()
    assert below == pytest.approx(4.64, abs=0.01)
    assert above == pytest.approx(4.64 / 3, abs=0.01)


@pytest.mark.parametrize("o", EXPONENTS)
def test_it_is_the_derivative_of_the_power(o) -> None:
    z = draw(200).double()
    z = z[((z.abs() - NEAR).abs() > 1e-3) & ((z.abs() - FAR).abs() > 1e-3)]
    point = z.clone().requires_grad_()
    [found] = torch.autograd.grad(power(point, o).sum(), [point])
    torch.testing.assert_close(found, derivative(z, o))
    torch.testing.assert_close(power(-z, o), -power(z, o))


def test_forward_along_a_direction_and_twice_it_is_the_same_estimate() -> None:
    z, along = draw(50).double(), draw(50, seed=2).double()
    torch.testing.assert_close(jvp(lambda z: sign(z, 3.0), (z,), (along,))[1], along * slope(z, 3.0))
    twice = jvp(grad(lambda z: sign(z, 3.0).square().sum() / 2 + sign(z, 3.0).sum()), (z,), (along,))[1]
    bend = grad(lambda z: slope(z, 3.0).sum())(z)
    torch.testing.assert_close(twice, along * (slope(z, 3.0).square() + (sign(z, 3.0) + 1) * bend))


def test_a_layer_is_signs_by_signs_times_one_size() -> None:
    layer, x = binary(), draw(5, 6)
    scale = layer.weight.abs().mean()
    torch.testing.assert_close(layer(x), scale * (x.sign() @ layer.weight.sign().T))
    [found] = torch.autograd.grad(layer(x).sum(), [layer.weight])
    above = x.sign().sum(0).expand(4, 6)
    through = above * slope(layer.weight, 3.0) * scale
    size = layer.weight.sign() * (above * layer.weight.sign()).sum() / layer.weight.numel()
    torch.testing.assert_close(found, through + size)


def binary() -> BinaryLinear:
    return initial_params(lambda: BinaryLinear(6, 4, 3.0), seed=1)[0]  # type: ignore[return-value]


def model(norm: str = "batch") -> tuple[nn.Module, Tensor]:
    return initial_params(lambda: MODELS["binary_mlp"]((6,), 3, hidden=[8, 7, 5], norm=norm), seed=1)


def looked(source: Gradients, params, x, y, direction) -> dict[str, Tensor]:
    grads, losses = source(params, x, y)
    bends = source.hvp(params, x, y, direction)
    slopes, _ = source.of_inputs(params, x, y)
    found = {"losses": losses, "slopes": slopes, "change": source.jvp(params, x, direction)}
    return {**found, **grads, **{f"{name} bend": part for name, part in bends.items()}}


def test_sources_agree_in_double_precision() -> None:
    module, flat = model()
    layout = Layout.of(module)
    module = module.double()
    params, direction = (layout.unflatten(part.double()) for part in (flat.repeat(2, 1), draw(2, layout.size)))
    x, y = draw(2, 9, 6).double(), torch.arange(18).remainder(3).view(2, 9)
    both = looked(Vmapped(module), params, x, y, direction)
    for k in range(2):
        [own, along] = [{name: rows[k : k + 1] for name, rows in each.items()} for each in (params, direction)]
        alone = looked(Single(module), own, x[k : k + 1], y[k : k + 1], along)
        for name, rows in both.items():
            torch.testing.assert_close(rows[k : k + 1], alone[name])


def test_examples_one_by_one_add_up_where_no_batch_is_looked_at() -> None:
    module, flat = model("layer")
    params = Layout.of(module).unflatten(flat.repeat(1, 1))
    x, y = draw(1, 9, 6), torch.arange(9).remainder(3).unsqueeze(0)
    each, _ = PerExample(module, 1e9)(params, x, y)
    whole, _ = Single(module)(params, x, y)
    for name, part in whole.items():
        torch.testing.assert_close(each[name], part, rtol=1e-4, atol=1e-5)


def test_scores_hear_of_signs_alone() -> None:
    """A weight that grows without changing its sign counts by the layer's one size, which a norm takes away again."""
    module, flat = model()
    named = Layout.of(module).unflatten(flat)
    larger = {name: part * 3 if name == "3.weight" else part for name, part in named.items()}
    x = draw(9, 6)
    torch.testing.assert_close(
        functional_call(module, larger, (x,)), functional_call(module, named, (x,)), rtol=1e-3, atol=1e-3
    )


def test_the_indicators_by_hand() -> None:
    weights = torch.tensor([[1.0, -1.0], [0.125, -8.0]])
    assert estimating_error([weights], 3.0) == pytest.approx(np.hypot(0.5, FAR ** (1 / 3) - 1))
    errors = [estimating_error([draw(30, 30) / 5], o) for o in EXPONENTS]
    assert errors == sorted(errors, reverse=True)
    gradients = [torch.tensor([1.0, -3.0]), torch.tensor([[2.0], [-2.0]])]
    assert gradient_variance(gradients) == pytest.approx(1.0)


SCENARIO = {
    "until": {"versions": 4},
    "data": {"digits": {"partition": "iid"}},
    "model": {"binary_mlp": {"hidden": [32, 32]}},
    "fleet": {"clients": 4, "devices": {"constant": {"per_example": "1 ms"}}},
    "local": {"steps": 10, "batch": 32, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "10 s"},
}


def test_a_scenario_learns_and_tells_the_indicators(tmp_path) -> None:
    last = fedsim.run(SCENARIO, out=tmp_path, picture=False).metrics.iloc[-1]
    assert last.accuracy > 0.6
    assert last.estimating_error > 0
    assert last.gradient_variance > 0


def test_other_models_have_no_such_columns(tmp_path) -> None:
    metrics = fedsim.run(SCENARIO | {"model": "logistic"}, out=tmp_path, picture=False).metrics
    assert "estimating_error" not in metrics


@pytest.mark.parametrize("model", [{"hidden": [8]}, {"hidden": [8, 8], "o": 0.5}])
def test_nonsense_is_refused(model, tmp_path) -> None:
    with pytest.raises(ScenarioError, match=r"model\.binary_mlp"):
        fedsim.run(SCENARIO | {"model": {"binary_mlp": model}}, out=tmp_path, picture=False)
