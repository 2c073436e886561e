"""Batches that grow: AdAdaGrad's tests are their formulas, a training's examples are a budget that time knows of."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from math import ceil

import numpy as np
import pytest
import torch
from networks import B, dense, numbers, stacked
from test_objectives import DIGITS
from torch import Tensor, nn
from worlds import changed

import fedsim
from fedsim import experiment, scenario
from fedsim.drift import ControlVariates
from fedsim.errors import ScenarioError
from fedsim.gradients import ClosedForm
from fedsim.gradients.per_example import EachExample
from fedsim.growth import Growth, InnerProduct, NormTest, Spread
from fedsim.steps.schedules import Linear
from fedsim.training import Trainer, batches
from fedsim.work import LocalTask

NORM = {"norm_test": {"eta": 0.5, "most": 64}}
LOCAL = {"steps": 12, "batch": 8, "optimizer": {"adagrad": {"lr": 0.02}}, "growth": NORM}
RULES = [NormTest(eta=0.5), InnerProduct(theta=0.2, nu=9.0), InnerProduct(theta=9.0, nu=0.2)]


def assembled(local=None, **changes) -> experiment.Experiment:
    [arm] = scenario.read({**DIGITS, "local": {**LOCAL, **(local or {})}, **changes})
    return experiment.assemble(arm)


def tasks_of(made: experiment.Experiment, *steps: int) -> list[LocalTask]:
    return [LocalTask(client, made.params, 0, count) for client, count in enumerate(steps)]


def rows(count: int = B, width: int = 5) -> Tensor:
    """Gradients of examples, (B, P)."""
    return numbers(count, width).double() + 0.7


# The tests of the paper -----------------------------------------------------------------------------------------------


def test_the_mean_of_the_examples_gradients_is_the_batchs() -> None:
    module = dense(5, 6, 4)
    x, y, params = numbers(1, B, 5), torch.arange(B).view(1, B) % 4, stacked(module, 1)
    each, losses = EachExample(module).each({name: part[0] for name, part in params.items()}, x[0], y[0])
    batch, expected = ClosedForm(module)(params, x, y)
    for name, part in batch.items():
        torch.testing.assert_close(each[name].mean(0), part[0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(losses, expected[0])


def test_a_spread_is_its_definition() -> None:
    each = rows()
    mean = each.mean(0)
    inner = each @ mean
    rest = each - inner[:, None] * mean / mean.square().sum()
    spread = Spread.of(each)
    assert spread.square == pytest.approx(float(mean.square().sum()))
    assert spread.total == pytest.approx(each.numpy().var(axis=0, ddof=1).sum())
    assert spread.along == pytest.approx(inner.numpy().var(ddof=1))
    assert spread.across == pytest.approx(rest.numpy().var(axis=0, ddof=1).sum())


def test_the_rules_are_their_formulas() -> None:
    spread = Spread(square=4.0, total=18.0, along=8.0)
    assert NormTest(eta=0.5).wanted(spread) == 18
    assert InnerProduct(theta=0.5, nu=100.0).wanted(spread) == 2
    assert InnerProduct(theta=100.0, nu=0.5).wanted(spread) == 16
    assert InnerProduct(theta=0.5, nu=0.5).wanted(spread) == 16


def test_the_defaults_are_the_papers() -> None:
    assert (NormTest().eta, NormTest().most, InnerProduct().theta, InnerProduct().nu) == (0.1, 50_000, 0.1, 0.1)


def test_variances_of_halves_make_that_of_the_whole() -> None:
    """The law of total variance, by which the paper's distributed test adds up workers."""
    whole = rows(8)
    halves = whole[:4], whole[4:]
    within = sum(3 * Spread.of(half).total for half in halves)
    between = sum(4 * float((half.mean(0) - whole.mean(0)).square().sum()) for half in halves)
    assert Spread.of(whole).total == pytest.approx((within + between) / 7)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_scale_of_the_loss_says_nothing(rule) -> None:
    expected = rule.next(2, 10**9, rows())
    assert expected > 2
    assert {rule.next(2, 10**9, scale * rows()) for scale in (0.125, 3.0, 1e4)} == {expected}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_batches_grow_as_far_as_is_asked_or_possible_and_never_shrink(rule) -> None:
    wanted = ceil(rule.wanted(Spread.of(rows())))
    assert rule.next(2, 1000, rows()) == wanted
    assert rule.next(2, wanted - 1, rows()) == wanted - 1
    assert rule.next(wanted + 3, 1000, rows()) == wanted + 3
    assert rule.next(B, 1000, torch.ones(B, 5)) == B, "alike"
    assert rule.next(3, 1000, torch.zeros(B, 5)) == 3
    assert rule.next(3, 1000, torch.tensor([[1.0, -1.0], [-1.0, 1.0]])) == 1000, "a mean of 0"
    assert rule.next(3, 1000, torch.full((B, 5), torch.nan)) == 3
    assert rule.next(3, 1000, rows()[:1]) == 3, "one example has no variance"


def test_a_larger_tolerance_never_asks_for_more() -> None:
    each = rows()
    for of in (
        lambda tolerance: NormTest(eta=tolerance),
        lambda tolerance: InnerProduct(theta=tolerance, nu=1e9),
        lambda tolerance: InnerProduct(theta=1e9, nu=tolerance),
    ):
        sizes = [of(tolerance).next(2, 10**9, each) for tolerance in (0.05, 0.1, 0.3, 0.7, 1.0, 1e9)]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] > sizes[-1] == 2


# In local training ----------------------------------------------------------------------------------------------------


def by_hand(made: experiment.Experiment, task: LocalTask, eta: float, most: int, size: int) -> tuple[Tensor, list[int]]:
    """AdaGrad with the norm test, in torch's own words: the change (P,), and the sizes of all batches."""
    trainer, model = made.trainer, made.arm.build(made.given, "model")
    held = len(trainer.parts.indices[task.client])
    visits = trainer.parts.held(task.client, task.ordinal)[batches(trainer.seed, task, held, 8).ravel()]
    named = made.layout.unflatten(task.params.clone())
    params = [named[name].clone().requires_grad_() for name in made.layout.names]
    optimizer, sizes, place = torch.optim.Adagrad(params, lr=0.02), [], 0
    while place < len(visits):
        batch = torch.from_numpy(visits[place : place + size])
        each = []
        for row in batch.tolist():
            scores = torch.func.functional_call(model, dict(zip(made.layout.names, params, strict=True)),
                                                (trainer.x[row][None],))  # fmt: skip
            loss = nn.functional.cross_entropy(scores, trainer.y[row][None])
            each.append(torch.cat([part.flatten() for part in torch.autograd.grad(loss, params)]))
        found = torch.stack(each).double()
        for param, part in zip(params, made.layout.unflatten(found.mean(0).float()).values(), strict=True):
            param.grad = part.clone()
        optimizer.step()
        sizes.append(len(batch))
        place += len(batch)
        if len(batch) > 1:
            wanted = found.var(0).sum() / (eta**2 * found.mean(0).square().sum())
            size = max(size, ceil(min(float(wanted), most, held)))
    return torch.cat([param.detach().flatten() for param in params]) - task.params, [*sizes, size]


@pytest.mark.parametrize("client", [0, 3])
def test_a_training_is_adagrad_with_the_norm_test(client) -> None:
    made = assembled()
    task = LocalTask(client, made.params, 2, 12)
    [result] = made.trainer([task])
    delta, sizes = by_hand(made, task, 0.5, 64, 8)
    assert sizes[0] == 8 < sizes[-1]
    assert sum(sizes[:-1]) == 96
    torch.testing.assert_close(result.delta, delta, rtol=1e-3, atol=1e-5)
    [row] = made.trainer.paces
    assert row == {"client": client, "training": 2, "steps": len(sizes) - 1, "examples": 96, "batch": sizes[-1]}
    assert int(result.kept.own["growth"]) == sizes[-1]


@pytest.mark.parametrize("name", ["adagrad", "adagrad_norm", "sgd"])
def test_without_need_to_grow_it_is_the_constant_batch(name) -> None:
    local = {"optimizer": {name: {"lr": 0.05}}}
    never = assembled({**local, "growth": {"norm_test": {"eta": 1e9}}})
    constant = assembled({**local, "growth": None})
    tasks = tasks_of(never, 3, 5, 0, 2)
    for one, other in zip(never.trainer(tasks), constant.trainer(tasks), strict=True):
        assert torch.equal(one.delta, other.delta)
        assert (one.loss, one.square_loss) == (other.loss, other.square_loss)


def test_a_client_goes_on_with_the_size_it_has_reached_and_a_fresh_one_begins() -> None:
    made = assembled()
    task = LocalTask(0, made.params, 0, 12)
    [first] = made.trainer([task])
    reached = int(first.kept.own["growth"])
    assert reached > 8
    [later] = made.trainer([replace(task, ordinal=1, kept=first.kept)])
    [fresh] = made.trainer([replace(task, ordinal=1)])
    rows = made.trainer.paces
    assert rows[1]["steps"] <= ceil(96 / reached) < rows[2]["steps"]
    assert int(later.kept.own["growth"]) >= reached
    assert not torch.equal(later.delta, fresh.delta)
    [idle] = made.trainer([replace(task, steps=0, kept=first.kept)])
    assert int(idle.kept.own["growth"]) == reached


def test_no_batch_is_larger_than_what_a_client_holds_and_no_training_than_its_budget() -> None:
    made = assembled({"growth": {"norm_test": {"eta": 0.01}}})
    held = made.trainer.parts.sizes
    for client, size in enumerate(held):
        [result] = made.trainer([LocalTask(client, made.params, 0, 200)])
        assert int(result.kept.own["growth"]) == size
    for row, size in zip(made.trainer.paces, held, strict=True):
        assert row["examples"] == 200 * 8
        assert row["steps"] == 1 + ceil((200 * 8 - 8) / size)


def test_a_stack_is_each_alone() -> None:
    made = assembled({"optimizer": {"adagrad_norm": {"lr": 0.3}}, "optimizer_state": "kept"})
    tasks = tasks_of(made, 4, 12, 0, 7)
    for _ in range(2):
        together = made.trainer(tasks)
        for task, result in zip(tasks, together, strict=True):
            [alone] = made.trainer([task])
            assert torch.equal(alone.delta, result.delta)
            assert alone.loss == result.loss
            assert torch.equal(alone.kept.own["growth"], result.kept.own["growth"])
        tasks = [replace(task, ordinal=1, kept=each.kept) for task, each in zip(tasks, together, strict=True)]


def test_no_global_randomness_is_touched() -> None:
    made = assembled()
    before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
    made.trainer(tasks_of(made, 3, 2))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == repr(np.random.get_state())
    assert before[2] == random.getstate()


class Seen(Linear):
    """Writes down how much was done before each step."""

    def factor(self, done: float) -> float:
        DONE.append(done)
        return super().factor(done)


DONE: list[float] = []


def test_schedules_within_a_training_follow_its_examples() -> None:
    made = assembled()
    trainer = made.trainer
    DONE.clear()
    trainer.rules = [Seen(over="round", versions=None)]
    trainer([LocalTask(0, made.params, 0, 12)])
    trainer.rules = []
    _, sizes = by_hand(made, LocalTask(0, made.params, 0, 12), 0.5, 64, 8)
    assert DONE[0] == 0
    assert DONE[1] == pytest.approx(8 / 96)
    assert all(one < other for one, other in pairwise(DONE))
    assert DONE[-1] > 1 - max(sizes) / 96 - 1e-9
    assert any(abs(share * 12 - round(share * 12)) > 1e-6 for share in DONE)


def test_control_variates_are_means_over_the_steps_that_were_taken() -> None:
    """Under plain SGD the sum of corrected gradients is the way back: option II, with as many steps as there were."""
    made = assembled({"optimizer": {"sgd": {"lr": 0.05}}})
    task = LocalTask(0, made.params, 0, 12, sent=torch.zeros_like(made.params))
    [result] = made.trainer([task], ControlVariates())
    [row] = made.trainer.paces
    assert row["steps"] < 12
    assert result.kept.drift is not None
    torch.testing.assert_close(result.kept.drift, -result.delta / (0.05 * row["steps"]), rtol=1e-3, atol=1e-5)


# In a run -------------------------------------------------------------------------------------------------------------

SERVERS = [
    {"fedavg": {"cohort": 3}},
    {"fedbuff": {"concurrency": 4, "goal": 2}},
    {"fedstale": {"beta": 0.5}},
    {"scaffold": {"cohort": "all"}},
]


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: next(iter(server)))
def test_in_whatever_company_under_any_server(server) -> None:
    ends = []
    for executor in ("inline", "stacked", "null"):
        made, simulation = changed({**DIGITS, "local": LOCAL}, aggregator=server, executor=executor)
        ends.append((simulation.world.trace.of(*range(20)), simulation.aggregator.params, made.trainer.paces))
    (trace, params, paces), (other_trace, other_params, other_paces), (null_trace, _, nothing) = ends
    assert trace == other_trace == null_trace, "time depends on no gradient"
    assert torch.equal(params, other_params)
    assert all(row in paces for row in other_paces)
    assert nothing == []


def test_peers_grow_too(tmp_path) -> None:
    keys = {key: value for key, value in DIGITS.items() if key != "aggregator"}
    run = fedsim.run({**keys, "local": LOCAL, "peers": "gossip", "network": "ring"}, out=tmp_path, picture=False)
    assert run.batches.groupby("client").batch.is_monotonic_increasing.all()
    assert len(run.batches) == 18


def test_a_look_costs_another_gradient() -> None:
    plain, growing = assembled({"growth": None}).work, assembled().work
    assert list(growing.seen) == [2 * seen for seen in plain.seen]
    assert growing.steps == plain.steps


def test_a_run_tells_what_batches_have_become(tmp_path) -> None:
    run = fedsim.run({**DIGITS, "local": LOCAL}, out=tmp_path, picture=False)
    table = run.batches
    assert list(table.columns) == ["client", "training", "steps", "examples", "batch"]
    assert list(zip(table.training, table.client, strict=True)) == [(t, c) for t in range(3) for c in range(6)]
    assert (table.examples == 96).all()
    assert (table.steps <= 12).all()
    assert table.groupby("client").batch.is_monotonic_increasing.all()
    assert "batches.csv" in run.receipt["digests"]
    plain = fedsim.run({**DIGITS, "local": {**LOCAL, "growth": None}}, out=tmp_path, picture=False)
    with pytest.raises(ScenarioError, match="no batches have grown"):
        _ = plain.batches


REFUSED = [
    ({"batch": 1}, {}, r"growth: batches begin with 1, which has to be from 2 to 64"),
    ({"batch": 100}, {}, r"growth: batches begin with 100, which has to be from 2 to 64"),
    ({"growth": {"norm_test": {"eta": 0}}}, {}, r"eta: .*greater than 0"),
    ({"growth": "norm_tset"}, {}, "did you mean"),
    ({"source": "sam"}, {}, "local.growth: norm_test: it tests the gradients of the loss itself"),
    ({"schedule": "refined"}, {}, "local.growth: norm_test: a schedule that is learnt step by step"),
    ({"objective": "together"}, {"model": {"mlp": {"hidden": [16], "further": 64}}}, "of one loss, .* adds up 2"),
    ({"private": {"clip": 1.0, "multiplier": 1.0}}, {}, "local.growth: with it steps depend on examples"),
    ({}, {"model": {"mlp": {"hidden": [16], "norm": "batch"}}}, "local.growth: norm_test: a model with BatchNorm"),
    ({"optimizer": {"sgd": {"lr": 0.1}}}, {"aggregator": "fednova"}, "schedule, control or growth"),
]


@pytest.mark.parametrize(("local", "changes", "message"), REFUSED, ids=[case[2][:40] for case in REFUSED])
def test_what_does_not_fit_is_refused(local, changes, message) -> None:
    with pytest.raises(ScenarioError, match=message):
        assembled(local, **changes)


def test_a_rule_of_ones_own_needs_one_method() -> None:
    class Doubling(Growth):
        def wanted(self, spread: Spread) -> float:
            return 1000.0

    made = assembled({"growth": None})
    trainer = Trainer(made.evaluator.model, made.trainer.x, made.trainer.y, made.trainer.parts, 8,
                      made.trainer.optimizer, 3, growth=Doubling(most=20))  # fmt: skip
    trainer(tasks_of(made, 6))
    assert trainer.paces[0] == {"client": 0, "training": 0, "steps": 3, "examples": 48, "batch": 20}
