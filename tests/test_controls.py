"""Derivatives along a direction, and the rules for steps that ask for them: what their papers say, in any company."""

from __future__ import annotations

import pytest
import torch
from networks import B, K, dense, numbers, stacked
from test_objectives import CLASSES, EVERY_CASE, given, oracle
from test_training import DENSE, OTHERS, stacked_problem
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.gradients import ClosedForm, Gradients, PerExample, Single, Vmapped
from fedsim.gradients.closed_form import at_most
from fedsim.losses import loss_of

NEAR = {"rtol": 1e-10, "atol": 1e-12}
WIDTHS = pytest.mark.parametrize("widths", [(5, CLASSES), (5, 6, CLASSES), (5, 6, 1, 4, CLASSES)])


def ways(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """A direction, like the parameters."""
    return {
        name: numbers(K, *part.shape[1:], 2)[: len(part), ..., 0].to(part).contiguous() for name, part in params.items()
    }


def moved(params: dict[str, Tensor], direction: dict[str, Tensor], far: float) -> dict[str, Tensor]:
    return {name: part + far * direction[name] for name, part in params.items()}


def alone(named: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """One client's, where nothing else of a stack is near."""
    return {name: part[k : k + 1].clone() for name, part in named.items()}


# Derivatives along a direction ----------------------------------------------------------------------------------------


def defined(module: nn.Module, params: dict, x: Tensor, y: Tensor, direction: dict, loss, offset):
    """One client after another by autograd, backward alone: J d (K, B, outputs) from Jacobians, and H d."""
    jacobians, curvatures = [], []
    for k in range(len(x)):
        own = {name: part[k].clone().requires_grad_() for name, part in params.items()}
        scores = functional_call(module, own, (x[k],))
        rows = [torch.autograd.grad(score, list(own.values()), retain_graph=True) for score in scores.flatten()]
        inner = [sum((row * direction[name][k]).sum() for row, name in zip(each, own, strict=True)) for each in rows]
        jacobians.append(torch.stack(inner).view_as(scores))
        losses = loss.each(scores if offset is None else scores + offset[k], y[k])
        grads = torch.autograd.grad(losses.mean(), list(own.values()), create_graph=True)
        along = sum((grad * direction[name][k]).sum() for grad, name in zip(grads, own, strict=True))
        curvatures.append(torch.autograd.grad(along, list(own.values()), materialize_grads=True))
    return torch.stack(jacobians), {
        name: torch.stack([own[place] for own in curvatures]) for place, name in enumerate(params)
    }


def check(source: Gradients, problem: tuple, rest: dict, expected: tuple) -> None:
    params, x, y, direction = problem
    torch.testing.assert_close(source.jvp(params, x, direction), expected[0], **NEAR)
    found = source.hvp(params, x, y, direction, **rest)
    assert set(found) == set(params)
    for name, part in found.items():
        torch.testing.assert_close(part, expected[1][name], **NEAR)


@EVERY_CASE
@WIDTHS
@pytest.mark.parametrize(("clients", "batch"), [(1, B), (1, 1), (K, B), (K, 1)])
def test_every_source_is_autograd_twice(case, widths, clients, batch) -> None:
    module = dense(*widths).double()
    params, x, y, rest = given(case, module, clients, batch)
    direction = ways(params)
    its = rest | {"loss": rest["loss"] or loss_of(y)}
    jacobian, curvature = defined(module, params, x, y, direction, **its)
    for source in (ClosedForm(module), Vmapped(module), PerExample(module, clip=1e-3)):
        check(source, (params, x, y, direction), rest, (jacobian, curvature))
    for k in range(clients):
        own = rest | {"offset": None if rest["offset"] is None else rest["offset"][k : k + 1]}
        one = alone(params, k), x[k : k + 1], y[k : k + 1], alone(direction, k)
        check(Single(module), one, own, (jacobian[k : k + 1], alone(curvature, k)))


@EVERY_CASE
@WIDTHS
def test_they_are_finite_differences(case, widths) -> None:
    module, far = dense(*widths).double(), 1e-6
    params, x, y, rest = given(case, module)
    direction, source = ways(params), ClosedForm(module)
    ahead, behind = moved(params, direction, far), moved(params, direction, -far)
    scores = (source.scores(ahead, x) - source.scores(behind, x)) / (2 * far)
    torch.testing.assert_close(source.jvp(params, x, direction), scores, rtol=1e-6, atol=1e-7)
    up, down = oracle(module, ahead, x, y, **rest)[0], oracle(module, behind, x, y, **rest)[0]
    for name, part in source.hvp(params, x, y, direction, **rest).items():
        torch.testing.assert_close(part, (up[name] - down[name]) / (2 * far), rtol=1e-6, atol=1e-7)


@EVERY_CASE
@pytest.mark.parametrize("widths", [(5, CLASSES), (5, 33, CLASSES), (5, 1, 4, CLASSES), (64, 100, CLASSES)])
@pytest.mark.parametrize("batch", [1, B])
@pytest.mark.parametrize("threads", [1, 2])
def test_by_hand_they_are_the_same_to_the_last_bit_in_any_company(case, widths, batch, threads) -> None:
    source = ClosedForm(module := dense(*widths))
    params, x, y, rest = given(case, module, batch=batch)
    x = x if widths[0] == 5 else numbers(*x.shape[:2], widths[0])
    direction = ways(params)
    with at_most(threads):
        jacobian, curvature = source.jvp(params, x, direction), source.hvp(params, x, y, direction, **rest)
        for k in range(K):
            own = rest | {"offset": None if rest["offset"] is None else rest["offset"][k : k + 1].clone()}
            one = alone(params, k), x[k : k + 1].clone()
            assert torch.equal(source.jvp(*one, alone(direction, k)), jacobian[k : k + 1])
            found = source.hvp(*one, y[k : k + 1].clone(), alone(direction, k), **own)
            assert all(torch.equal(part, curvature[name][k : k + 1]) for name, part in found.items())


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", [*DENSE, *OTHERS])
def test_all_sources_agree_along_a_direction(name) -> None:
    module, params, x, y = stacked_problem({**DENSE, **OTHERS}[name], 3)
    direction = {key: 0.01 * part for key, part in ways(params).items()}
    jacobian, curvature = Vmapped(module).jvp(params, x, direction), Vmapped(module).hvp(params, x, y, direction)
    single = Single(module)
    for k in range(3):
        one = alone(params, k), x[k : k + 1]
        torch.testing.assert_close(single.jvp(*one, alone(direction, k)), jacobian[k : k + 1], rtol=1e-4, atol=1e-5)
        for key, part in single.hvp(*one, y[k : k + 1], alone(direction, k)).items():
            torch.testing.assert_close(part, curvature[key][k : k + 1], rtol=1e-3, atol=1e-4)


def test_points_that_are_labels_have_curvature_too() -> None:
    """Of half the squared error of one layer: H d = mean of (J d) x^T."""
    module = dense(5, CLASSES).double()
    params, x = stacked(module), numbers(K, B, 5).double()
    direction = ways(params)
    y = numbers(K, B, CLASSES).double()
    change = ClosedForm(module).jvp(params, x, direction)
    found = ClosedForm(module).hvp(params, x, y, direction)
    torch.testing.assert_close(found["1.weight"], change.mT @ x / B, **NEAR)
    torch.testing.assert_close(found["1.bias"], change.mean(1), **NEAR)
