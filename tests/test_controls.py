"""Derivatives along a direction, and the rules for steps that ask for them: what their papers say, in any company."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import pi

import numpy as np
import pytest
import torch
from networks import B, K, dense, numbers, stacked
from test_objectives import CLASSES, EVERY_CASE, Y, given, oracle
from test_steps import params as trained
from test_steps import run
from test_training import DENSE, OTHERS, stacked_problem
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.errors import ScenarioError
from fedsim.gradients import ClosedForm, Gradients, PerExample, Single, Vmapped
from fedsim.gradients.norms import norms
from fedsim.losses import SquaredError, loss_of
from fedsim.objectives import Step, Term
from fedsim.optimizers import adam, sgd
from fedsim.state import restore, saved
from fedsim.steps.clip import Clip
from fedsim.steps.dal import Dal
from fedsim.steps.ghosts import Ghosts, radius
from fedsim.steps.refined import Refined, median_filtered, refined
from fedsim.steps.rule import Proposal, taken
from fedsim.steps.schedules import Jump
from fedsim.vector import Layout
from fedsim.work import ClientState, LocalTask

NEAR = {"rtol": 1e-10, "atol": 1e-12}
WIDTHS = pytest.mark.parametrize("widths", [(5, CLASSES), (5, 6, CLASSES), (5, 6, 1, 4, CLASSES)])


def ways(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """A direction, like the parameters."""
    return {
        name: numbers(K, *part.shape[1:], 2)[: len(part), ..., 0].to(part).contiguous() for name, part in params.items()
    }


def moved(params: dict[str, Tensor], direction: dict[str, Tensor], far: float) -> dict[str, Tensor]:
    return {name: part + far * direction[name] for name, part in params.items()}


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
@pytest.mark.parametrize("count", [1, 2])
def test_by_hand_they_are_the_same_to_the_last_bit_in_any_company(case, widths, batch, count) -> None:
    source = ClosedForm(module := dense(*widths))
    params, x, y, rest = given(case, module, batch=batch)
    x = x if widths[0] == 5 else numbers(*x.shape[:2], widths[0])
    direction = ways(params)
    with threads(count):
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


def test_norms_are_the_same_in_any_company_however_many_threads() -> None:
    """Of sums so long that torch would share one among threads."""
    part = {"long": numbers(3, 40000)} | {str(width): numbers(3, width, 7) for width in range(1, 8)}
    with threads(2):
        for order in (1, 2):
            whole = norms(part, order)
            assert all(torch.equal(norms(alone(part, k), order), whole[k : k + 1]) for k in range(3))
            flat = torch.cat([tensor.flatten(1) for tensor in part.values()], 1).double()
            torch.testing.assert_close(whole.double(), flat.norm(order, dim=1), rtol=1e-4, atol=0)


# Ghosts ---------------------------------------------------------------------------------------------------------------


def proposal(widths: tuple[int, ...], change: dict | None = None, far: float = 1.0, loss=None, y=None) -> Proposal:
    """Of K clients in float64; the change is some direction, `far` times."""
    module = dense(*widths).double()
    before, x = stacked(module), numbers(K, B, widths[0]).double()
    change = {name: far * part for name, part in (change or ways(before)).items()}
    tasks = [LocalTask(k, torch.zeros(0), 0, 5) for k in range(K)]
    y = Y % widths[-1] if y is None else y
    step = Step(ClosedForm(module), moved(before, change, 1), x, y, None, tasks, 0, 1, Layout.of(module),
                rows=torch.zeros(K, B, dtype=torch.int64), look_up=lambda rows: (x[0][rows], y[0][rows]),
                memory=[{}] * K)  # fmt: skip
    term = Term("loss", x, y, loss)
    return Proposal(step, [term], before, change, term.slopes(step.source, before)[0])


def points(asked: Proposal) -> Tensor:
    """What the gradient was taken on."""
    return asked.terms[0].points


def lengths(asked: Proposal, change: dict[str, Tensor]) -> Tensor:
    """In radii, (K,)."""
    return 1 / radius(asked.step.source.jvp(asked.before, points(asked), change))


@pytest.mark.parametrize("target", [0.25, 1.0])
@pytest.mark.parametrize("far", [0.01, 1.0, 1e4])
def test_a_capped_step_is_no_longer_than_its_radius(target, far) -> None:
    asked = proposal((5, 6, CLASSES), far=far)
    factors = Ghosts(target=target).factors(asked)
    after = taken(asked, factors)
    change = {name: part - asked.before[name] for name, part in after.items()}
    r = lengths(asked, change)
    assert bool((r <= target * (1 + 1e-12)).all())
    short = lengths(asked, asked.change) <= target
    assert bool((factors[short] == 1).all())
    torch.testing.assert_close(r[~short], torch.full_like(r[~short], target), rtol=1e-11, atol=0)
    whole = all(torch.equal(part, asked.step.params[name]) for name, part in after.items())
    assert whole == bool(short.all())


def test_a_set_step_has_the_length_that_is_asked_for_whatever_the_rate() -> None:
    found = []
    for far in (1e-3, 1.0, 1e3):
        asked = proposal((5, 6, CLASSES), far=far)
        after = taken(asked, Ghosts(mode="set", target=0.5).factors(asked))
        change = {name: part - asked.before[name] for name, part in after.items()}
        torch.testing.assert_close(lengths(asked, change), torch.full((K,), 0.5).double(), rtol=1e-9, atol=0)
        found.append(after)
    for name, part in found[0].items():
        torch.testing.assert_close(part, found[2][name], rtol=1e-9, atol=1e-12)


def test_the_radius_of_a_linear_softmax_is_by_hand() -> None:
    asked = proposal((5, CLASSES))
    changes = points(asked) @ asked.change["1.weight"].mT + asked.change["1.bias"].unsqueeze(1)
    widest = torch.stack([max(own.max() - own.min() for own in each) for each in changes])
    torch.testing.assert_close(1 / lengths(asked, asked.change), pi / widest, **NEAR)


def test_the_radius_is_homogeneous_and_blind_to_what_all_scores_share() -> None:
    asked = proposal((5, 6, CLASSES))
    rho = 1 / lengths(asked, asked.change)
    torch.testing.assert_close(1 / lengths(asked, {n: 4 * part for n, part in asked.change.items()}), rho / 4, **NEAR)
    lifted = asked.change | {"3.bias": asked.change["3.bias"] + 7}
    torch.testing.assert_close(1 / lengths(asked, lifted), rho, **NEAR)
    last = {"3.weight", "3.bias"}
    cool = {n: part / 3 if n in last else part for n, part in asked.before.items()}
    change = {n: part / 3 if n in last else part for n, part in asked.change.items()}
    torch.testing.assert_close(radius(asked.step.source.jvp(cool, points(asked), change)), 3 * rho, **NEAR)
    fewer = radius(asked.step.source.jvp(asked.before, points(asked)[:, :3], asked.change))
    assert bool((fewer >= rho * (1 - 1e-12)).all())


def test_two_classes_have_no_pole_within_the_radius() -> None:
    """The series of the logistic loss along a direction converges up to sqrt(margin^2 + pi^2) / Delta, above rho_a."""
    margin, delta = 2.0, 2.0
    circle = 1.4 * np.exp(2j * pi * np.arange(512) / 512)
    series = np.fft.fft(1 / (1 + np.exp(margin + delta * circle))) / 512 / 1.4 ** np.arange(512)
    roots = [float(min(abs(series[n]) ** (-1 / n) for n in (order, order + 1))) for order in (20, 40, 60)]
    exact, rho = (margin**2 + pi**2) ** 0.5 / delta, float(radius(torch.tensor([[[0.0, delta]]])))
    assert all(root > rho for root in roots)
    assert roots[-1] == pytest.approx(exact, rel=0.1)
    assert rho == pytest.approx(pi / delta)


@pytest.mark.parametrize("mode", ["cap", "set"])
def test_a_step_that_moves_no_score_is_taken_whole(mode) -> None:
    asked = proposal((5, 6, CLASSES))
    still = {name: torch.zeros_like(part) for name, part in asked.change.items()}
    factors = Ghosts(mode=mode).factors(replace(asked, change=still))
    assert factors.tolist() == [1.0] * K


def test_what_it_does_not_shorten_is_as_if_it_were_not_there() -> None:
    small = {"optimizer": {"sgd": {"lr": 0.01, "momentum": 0.9}}}
    assert torch.equal(trained(small | {"control": "ghosts"}), trained(small))
    wild = {"optimizer": {"adam": {"lr": 1.0}}}
    assert not torch.equal(trained(wild | {"control": "ghosts"}), trained(wild))


def test_a_clipped_step_is_no_longer_than_its_bound() -> None:
    asked = proposal((5, 6, CLASSES))
    size = norms(asked.change)
    bound = float(size.median())
    after = taken(asked, Clip(length=bound).factors(asked))
    found = norms({name: part - asked.before[name] for name, part in after.items()})
    torch.testing.assert_close(found, size.clamp_max(bound), **NEAR)
    still = {name: torch.zeros_like(part) for name, part in asked.change.items()}
    assert Clip().factors(replace(asked, change=still)).tolist() == [1.0] * K


def test_a_jump_is_from_a_version_on() -> None:
    """And it goes as far as it does at a rate as high from there."""
    rule, asked = Jump(at=3, factor=9.0), proposal((5, CLASSES))
    tasks = [replace(task, version=version) for version, task in zip((2, 3, 4), asked.step.tasks, strict=True)]
    assert rule.factors(replace(asked, step=replace(asked.step, tasks=tasks))).tolist() == [1.0, 9.0, 9.0]
    jumped = trained({"schedule": {"jump": {"at": 0, "factor": 3}}, "optimizer": {"adam": {"lr": 0.01}}})
    torch.testing.assert_close(jumped, trained({"optimizer": {"adam": {"lr": 0.03}}}), rtol=1e-4, atol=1e-5)


# DAL ------------------------------------------------------------------------------------------------------------------

PLAIN = sgd(0.1)


def rate(asked: Proposal, **arguments) -> Tensor:
    return 0.1 * Dal(optimizer=PLAIN, **arguments).factors(asked)


def test_along_the_steepest_curvature_it_is_at_the_edge_of_stability() -> None:
    """Of a quadratic whose gradient is an eigenvector: 2 / lambda."""
    x = torch.cat([numbers(K, B, 5).double(), torch.ones(K, B, 1).double()], 2)
    values, vectors = torch.linalg.eigh(x.mT @ x / B)  # of half the mean squared error of one output
    asked = proposal((5, 1), y=numbers(K, B, 1).double())
    for place in (-1, -2):
        gradient = {"1.weight": vectors[:, None, :5, place], "1.bias": vectors[:, 5:, place]}
        found = rate(replace(asked, gradient={n: 3 * part for n, part in gradient.items()}), most=1e9)
        torch.testing.assert_close(found, 2 / values[:, place], **NEAR)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.2])
def test_the_rate_is_the_formulas(power) -> None:
    """H by autograd. A longer gradient has the same rate, a loss c times as high c^-p times it, and there is a cap."""

    class Threefold(SquaredError):
        def slope(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            losses, slope = super().slope(scores, y)
            return 3 * losses, 3 * slope

    y = numbers(K, B, CLASSES).double()
    asked = proposal((5, 6, CLASSES), y=y)
    size = norms(asked.gradient)
    unit = {name: part / size.view(-1, *[1] * (part.dim() - 1)) for name, part in asked.gradient.items()}
    args = asked.step.source, asked.before, points(asked), y, unit, SquaredError(), None
    curvature = norms(defined(dense(5, 6, CLASSES).double(), *args[1:])[1])
    torch.testing.assert_close(rate(asked, power=power, most=1e9), 2 / curvature**power, **NEAR)
    longer = replace(asked, gradient={name: 7 * part for name, part in asked.gradient.items()})
    torch.testing.assert_close(rate(longer, power=power), rate(asked, power=power), **NEAR)
    for change in ({"loss": Threefold()}, {"weight": 3.0}):
        higher = rate(replace(asked, terms=[replace(asked.terms[0], **change)]), power=power, most=1e9)
        torch.testing.assert_close(higher, rate(asked, power=power, most=1e9) * 3**-power, **NEAR)
    assert rate(asked, power=power, most=1e-3).tolist() == pytest.approx([1e-3] * K)


def test_the_optimizers_rate_does_not_matter_but_for_the_power_zero() -> None:
    """Which is the optimizer's own rate, as in the paper's code, not the formula's 2."""
    plain = {"optimizer": {"sgd": {"lr": 0.1}}}
    found = [trained({"optimizer": {"sgd": {"lr": lr}}, "control": "dal"}) for lr in (0.1, 0.4)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    assert torch.equal(trained(plain | {"control": {"dal": {"power": 0}}}), trained(plain))


def test_where_nothing_is_curved_it_is_capped_and_without_gradient_it_stands() -> None:
    asked = proposal((5, CLASSES))
    still = {name: torch.zeros_like(part) for name, part in asked.gradient.items()}
    assert rate(replace(asked, gradient=still)).tolist() == pytest.approx([5.0] * K)


# Refined schedules ----------------------------------------------------------------------------------------------------


def test_constant_norms_give_linear_decay() -> None:
    for steps in (2, 5, 100):
        wanted = (steps - 1 - np.arange(steps)) / (steps - 1)
        np.testing.assert_allclose(refined(np.full(steps, 3.7)), wanted, rtol=0, atol=1e-15)


def test_a_schedule_has_no_units_ends_at_nothing_and_peaks_at_one() -> None:
    for power in (1.0, 2.0):
        norms_ = np.exp(numbers(60).numpy().astype(float))
        factors = refined(norms_, power)
        np.testing.assert_allclose(refined(1e3 * norms_, power), factors, rtol=1e-12, atol=1e-15)
        assert factors[-1] == 0
        assert factors.max() == 1
        assert factors.min() >= 0


def test_falling_norms_warm_up_and_rising_ones_anneal() -> None:
    norms_ = np.ones(1000)
    norms_[:100] = np.linspace(10, 1, 100)
    assert refined(norms_)[[0, 50, 100]] == pytest.approx([0.01, 0.03, 1.0], abs=0.01)
    norms_ = np.ones(1000)
    norms_[500:] = np.linspace(1, 3, 500)
    assert (refined(norms_)[[500, 750, 900]] < [0.5, 0.25, 0.1]).all()


def test_by_the_formula() -> None:
    norms_ = np.exp(numbers(9).numpy().astype(float))
    for power in (1.0, 2.0):
        weights = norms_**-power
        factors = np.array([weights[t] * weights[t + 1 :].sum() for t in range(9)])
        np.testing.assert_allclose(refined(norms_, power, tau=0), factors / factors.max(), rtol=1e-12)


def test_the_filter_keeps_constants_and_drops_outliers() -> None:
    assert median_filtered(np.full(30, 2.0), 0.1).tolist() == [2.0] * 30
    norms_ = np.full(30, 2.0)
    norms_[12] = 1e6
    assert median_filtered(norms_, 0.1).tolist() == [2.0] * 30
    assert median_filtered(norms_, 0.0).tolist() == norms_.tolist()


def test_norms_without_a_meaning_do_no_harm() -> None:
    for odd in (0.0, np.inf, np.nan):
        factors = refined(np.array([1.0, odd, 1.0, 1.0, 2.0]), tau=0)
        assert np.isfinite(factors).all()
    assert refined(np.zeros(3)).tolist() == [1.0, 0.5, 0.0]
    assert refined(np.array([3.0])).tolist() == [1.0]


def test_each_client_follows_its_own_last_training() -> None:
    """The first one linear; then by 2-norms squared for SGD, by 1-norms for Adam, which stay with the client."""
    rule = Refined(optimizer=PLAIN)
    assert (rule.order, Refined(optimizer=adam()).order) == (2, 1)
    asked = proposal((5, 6, CLASSES))
    for order, optimizer in ((2, PLAIN), (1, adam())):
        torch.testing.assert_close(Refined(optimizer=optimizer).note(asked), norms(asked.gradient, order))
    first = LocalTask(0, torch.zeros(0), 0, 4)
    assert [rule.factor(first, step) for step in range(4)] == [1, 0.75, 0.5, 0.25]
    learnt = rule.learnt(torch.tensor([4.0, 2.0, 1.0, 1.0]).double())
    later = replace(first, kept=ClientState(steps={"Refined": learnt}))
    assert [rule.factor(later, step) for step in range(4)] == refined(np.array([4.0, 2.0, 1.0, 1.0])).tolist()
    longer = replace(later, steps=8)
    assert [rule.factor(longer, step) for step in range(8)] == [f for f in learnt.tolist() for _ in range(2)]


def test_what_it_has_learnt_is_saved() -> None:
    class Holder:
        def __init__(self) -> None:
            self.state: ClientState | None = None

    there, here = Holder(), Holder()
    there.state = ClientState(steps={"Refined": torch.arange(3).double()})
    restore(here, saved(there))
    assert here.state is not None
    assert torch.equal(here.state.steps["Refined"], torch.arange(3).double())


def test_a_second_training_is_refined_and_the_trainer_says_so() -> None:
    made, _ = run({"schedule": "refined"})
    assert made.trainer.goes_on
    assert not made.trainer.keeps
    assert not run()[0].trainer.goes_on
    task = LocalTask(0, made.params, 0, 5)
    [first] = made.trainer([task])
    assert set(first.kept.steps) == {"Refined"}
    assert len(first.kept.steps["Refined"]) == 5
    [again] = made.trainer([replace(task, kept=first.kept)])
    assert not torch.equal(first.delta, again.delta)
    [nothing] = made.trainer([replace(task, steps=0, kept=first.kept)])
    assert torch.equal(nothing.kept.steps["Refined"], first.kept.steps["Refined"])
    [shorter] = made.trainer([replace(task, steps=2, kept=first.kept)])
    assert len(shorter.kept.steps["Refined"]) == 2


# Laws of all rules ----------------------------------------------------------------------------------------------------

SGD, MOMENTUM = {"sgd": {"lr": 0.5}}, {"sgd": {"lr": 0.2, "momentum": 0.9}}
ADAMW = {"adamw": {"lr": 0.05}}
LAWS = {
    "linear": {"schedule": {"linear": {"over": "round"}}, "optimizer": MOMENTUM},
    "cosine": {"schedule": {"cosine": {"warm_up": 0.3}}, "optimizer": ADAMW},
    "trapezoid": {"schedule": {"trapezoid": {"over": "round", "warm_up": 0.4}}, "optimizer": SGD},
    "refined, sgd": {"schedule": "refined", "optimizer": MOMENTUM},
    "refined, adamw": {"schedule": "refined", "optimizer": ADAMW},
    "ghosts, sgd": {"control": {"ghosts": {"target": 0.1}}, "optimizer": MOMENTUM},
    "ghosts, adamw": {"control": {"ghosts": {"target": 0.1}}, "optimizer": ADAMW},
    "ghosts, set": {"control": {"ghosts": {"mode": "set", "target": 0.3}}, "optimizer": ADAMW},
    "ghosts, kept": {"control": "ghosts", "optimizer": {"adam": {"lr": 0.5}}, "optimizer_state": "kept"},
    "jump, clip": {"schedule": {"jump": {"at": 2}}, "control": {"clip": {"length": 0.1}}, "optimizer": ADAMW},
    "jump, ghosts": {"schedule": {"jump": {"at": 2}}, "control": "ghosts", "optimizer": ADAMW},
    "dal": {"control": "dal", "optimizer": SGD},
    "dal, linear": {"control": {"dal": {"power": 0.5}}, "schedule": "linear", "optimizer": SGD},
    "refined and ghosts": {"schedule": "refined", "control": "ghosts", "optimizer": ADAMW},
    "sam, ghosts": {"source": "sam", "control": {"ghosts": {"target": 0.1}}, "optimizer": MOMENTUM},
    "trades, ghosts": {"objective": {"trades": {"radius": 0.1, "step": 0.05, "steps": 2}}, "optimizer": MOMENTUM,
                       "control": {"ghosts": {"target": 0.1}}},
    "calfat, dal": {"objective": {"calfat": {"radius": 0.1, "step": 0.05, "steps": 2}}, "optimizer": SGD,
                    "control": "dal"},
}  # fmt: skip
EACH_LAW = pytest.mark.parametrize("law", LAWS)


@EACH_LAW
def test_unequal_trainings_are_the_same_alone_to_the_last_bit(law) -> None:
    made, _ = run(LAWS[law], executor="null")
    tasks = [LocalTask(k, made.params * (1 + k / 10), k % 2, 2 + k % 3) for k in range(6)]
    for _ in range(2):
        together = made.trainer(tasks)
        for task, result in zip(tasks, together, strict=True):
            [lonely] = made.trainer([task])
            assert torch.equal(lonely.delta, result.delta)
            assert lonely.kept.steps.keys() == result.kept.steps.keys()
            assert all(torch.equal(part, result.kept.steps[name]) for name, part in lonely.kept.steps.items())
        tasks = [replace(task, kept=result.kept) for task, result in zip(tasks, together, strict=True)]


@pytest.mark.parametrize("law", ["dal", "ghosts, sgd", "refined, sgd", "sam, ghosts"])
def test_with_several_threads_and_long_sums_too(law) -> None:
    made, _ = run(LAWS[law], executor="null", model={"mlp": {"hidden": [600, 100]}})
    tasks, made.trainer.cohort = [LocalTask(k, made.params * (1 + k / 10), 0, 2) for k in range(4)], 4
    with threads(2):
        for task, result in zip(tasks, made.trainer(tasks), strict=True):
            assert torch.equal(made.trainer([task])[0].delta, result.delta)


@EACH_LAW
def test_every_executor_has_the_same_numbers_and_times_and_it_does_something(law) -> None:
    found = [run(LAWS[law], executor=kind)[1] for kind in ("inline", "stacked", "null")]
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert len({simulation.trace.digest() for simulation in found}) == 1
    assert torch.isfinite(found[0].aggregator.params).all()
    bare = {key: part for key, part in LAWS[law].items() if key not in ("control", "schedule")}
    assert not torch.equal(found[0].aggregator.params, trained(bare))


@pytest.mark.parametrize("local", [LAWS["ghosts, adamw"], LAWS["dal"], LAWS["refined, sgd"]])
def test_convolutions_have_rules_too(local) -> None:
    found = [run(local, executor=kind, model={"cnn_group": {"channels": [8]}}, until={"versions": 2})[1]
             for kind in ("inline", "stacked")]  # fmt: skip
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)


def test_no_global_randomness_is_touched() -> None:
    made, _ = run(LAWS["refined and ghosts"], executor="null")
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    made.trainer([LocalTask(0, made.params, 0, 3)])
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize(
    ("law", "share"),
    [("ghosts, sgd", 2), ("dal", 1 + 8 / 3), ("refined, sgd", 1), ("sam, ghosts", 3), ("trades, ghosts", 2)],
)
def test_a_look_at_a_step_takes_its_time(law, share) -> None:
    """In trainings of the same clients; TRADES' batch is of pairs, and both of each are looked at."""
    bare = {key: part for key, part in LAWS[law].items() if key == "objective"}
    made, plain = run(LAWS[law], executor="null")[0], run(bare, executor="null")[0]
    if bare:
        plain_share = run(executor="null")[0].work.seen
        more = [seen - before for seen, before in zip(made.work.seen, plain.work.seen, strict=True)]
        assert more == pytest.approx([share * seen for seen in plain_share], abs=1)
    else:
        assert made.work.seen == pytest.approx([share * seen for seen in plain.work.seen], abs=1)


POINTS = {
    "data": {"points": {"clients": 3, "dimension": 2, "spread": 1.0}},
    "model": "logistic",
    "fleet": {"clients": 3, "devices": "fedscale"},
}


@pytest.mark.parametrize(
    ("local", "changes", "sentence"),
    [({"control": "ghosts"}, POINTS, r"scenario:1: local.control: ghosts is for classes, which these data do not have"),
     ({"schedule": "linear"}, {"aggregator": "fednova"}, "sgd, without nesterov, schedule, control or growth"),
     ({"control": "clip", "steps": 1, "optimizer": {"sgd": {"lr": 0.1}}}, {"eavesdrop": {"attack": "idlg"}},
      "eavesdrop knows the gradient of the loss of examples"),
     ({"control": "dal"}, {}, r"local.control.dal: its rates are those of plain gradients: take optimizer sgd"),
     ({"control": "dal", "optimizer": "adam"}, {}, r"local.control.dal: its rates are those of plain gradients"),
     ({"control": "dal", "optimizer": {"sgd": {"lr": 0.1, "weight_decay": 0.1}}}, {}, "without momentum and decay"),
     ({"control": {"ghosts": {"target": 0}}}, {}, "local.control.ghosts.target: Input should be greater than 0"),
     ({"control": {"ghosts": {"mode": "cup"}}}, {}, "'cap' or 'set'"),
     ({"control": "gohsts"}, {}, "did you mean ghosts"),
     ({"control": "ghosts", "private": {"clip": 1.0, "multiplier": 1.0}}, {},
      "local.control: with it steps depend on"),
     ({"schedule": {"refined": {"tau": 2}}}, {}, "local.schedule.refined.tau")],
)  # fmt: skip
def test_what_cannot_be_is_one_line(local, changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence) as error:
        run(local, **changes)
    assert "\n" not in str(error.value)
