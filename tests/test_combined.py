"""Several losses of one client: their sum, or one direction that a combiner makes of their gradients."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import B, K, dense, numbers, stacked
from test_objectives import DIGITS, Y
from torch import Tensor, nn
from torch.func import functional_call
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.combiners import CAGrad, GCond, PCGrad
from fedsim.errors import ScenarioError
from fedsim.gradients import ClosedForm, Vmapped
from fedsim.losses import CrossEntropy, Of
from fedsim.objectives import Plain, Step, Together
from fedsim.objectives.term import slopes
from fedsim.sources import PLAIN, Combined
from fedsim.vector import Layout
from fedsim.work import LocalTask

INPUTS, CLASSES = 5, 3
NEAR = {"rtol": 1e-9, "atol": 1e-11}


def step_of(module: nn.Module, number: int = 3) -> Step:
    layout, params = Layout.of(module), stacked(module)
    tasks = [LocalTask(k, layout.join({name: part[k] for name, part in params.items()}), 2, 5) for k in range(K)]
    x = numbers(K, B, INPUTS).double()
    return Step(ClosedForm(module), params, x, Y % CLASSES, None, tasks, number, 1, layout,
                rows=torch.zeros(K, B, dtype=torch.int64), look_up=lambda rows: (x[0][rows], Y[0][rows]),
                memory=[{} for _ in range(K)])  # fmt: skip


def two_heads() -> nn.Module:
    return dense(INPUTS, 6, CLASSES + INPUTS).double()


def defined(module: nn.Module, step: Step, k: int) -> tuple[Tensor, Tensor]:
    """Gradients (P,) of one client's two losses, by autograd: cross-entropy, and 20 times the mean squared error."""
    flat = step.tasks[k].params.clone().requires_grad_()
    scores = functional_call(module, step.layout.unflatten(flat), (step.x[k],))
    classes = nn.functional.cross_entropy(scores[:, :CLASSES], step.y[k])
    pictures = 20 * (scores[:, CLASSES:] - step.x[k]).square().mean()
    return tuple(torch.autograd.grad(loss, [flat], retain_graph=True)[0] for loss in (classes, pictures))  # type: ignore[return-value]


def test_a_loss_of_some_scores_has_no_slope_elsewhere() -> None:
    scores, y = numbers(K, CLASSES + 2, B).double(), Y % CLASSES
    for first, loss in ((0, CrossEntropy()), (2, CrossEntropy())):
        own, alone = Of(loss, first, first + CLASSES), scores[:, first : first + CLASSES]
        losses, slope = own.slope(scores.clone(), y)
        expected = loss.slope(alone.clone(), y)
        assert torch.equal(losses, expected[0])
        assert torch.equal(slope[..., first : first + CLASSES], expected[1])
        assert not slope[..., :first].any()
        assert not slope[..., first + CLASSES :].any()
        torch.testing.assert_close(own.each(scores[0].mT, y[0]), losses[0])


def test_together_is_the_sum_of_both_losses() -> None:
    module = two_heads()
    step, objective = step_of(module), Together(shape=(INPUTS,), outputs=CLASSES)
    expected = torch.stack([sum(defined(module, step, k)) for k in range(K)])
    for source in (ClosedForm(module), Vmapped(module)):
        grads, losses = slopes(source, step.params, objective.terms(step))
        torch.testing.assert_close(step.layout.join(grads), expected, **NEAR)
        scores = source.scores(step.params, step.x)[..., :CLASSES]
        reported = nn.functional.cross_entropy(scores.flatten(0, 1), step.y.flatten(), reduction="none")
        torch.testing.assert_close(losses.flatten(), reported, **NEAR)
    torch.testing.assert_close(step.layout.join(PLAIN.gradients(step, objective.terms(step))[0]), expected, **NEAR)


@pytest.mark.parametrize("combiner", [PCGrad(seed=4), CAGrad(0.4), GCond(momentum=0.0)])
def test_each_client_has_its_own_direction(combiner) -> None:
    module = two_heads()
    step = step_of(module)
    found, losses = Combined(combiner).gradients(step, Together(shape=(INPUTS,), outputs=CLASSES).terms(step))
    assert losses.shape == (K, B)
    source = Combined(combiner)
    for k, own in enumerate(step.layout.join(found)):
        rows = torch.stack(defined(module, step, k))
        torch.testing.assert_close(own, source.direction(step_of(module), k, rows), **NEAR)


def test_every_client_training_and_step_has_a_turn_of_its_own() -> None:
    """What a combiner draws is addressed by it."""
    turns = []

    class Noting(PCGrad):
        def combine(self, rows, names, turn, memory):
            turns.append(turn)
            return rows.mean(0)

    module = two_heads()
    for number in (0, 1):
        for ordinal in (2, 3):
            step = step_of(module, number)
            step = replace(step, tasks=[replace(task, ordinal=ordinal) for task in step.tasks])
            Combined(Noting()).gradients(step, Together(shape=(INPUTS,), outputs=CLASSES).terms(step))
    assert len(set(turns)) == len(turns) == 4 * K


def test_where_nothing_conflicts_it_is_the_sum() -> None:
    module = two_heads()
    step, [alone] = step_of(module), Plain().terms(step_of(module))
    whole = Of(CrossEntropy(), 0, CLASSES)
    same = [replace(alone, loss=whole), replace(alone, loss=whole, weight=2.5)]
    for combiner in (PCGrad(), GCond(momentum=0.0), CAGrad(0.0)):
        found, _ = Combined(combiner).gradients(step, same)
        torch.testing.assert_close(
            step.layout.join(found), step.layout.join(slopes(step.source, step.params, same)[0]), **NEAR
        )


def test_gradients_lose_what_points_against_the_other() -> None:
    """Two opposite losses: 2 x PCGrad's mean is the sum of what is left of both."""
    module = two_heads()
    step = step_of(module)
    found, _ = Combined(PCGrad()).gradients(step, Together(shape=(INPUTS,), outputs=CLASSES, weight=3.0).terms(step))
    for k, own in enumerate(step.layout.join(found)):
        classes, pictures = defined(module, step, k)
        pictures = pictures * 3 / 20
        against = min(float(classes @ pictures), 0.0)
        left = classes - against / (pictures @ pictures) * pictures + pictures - against / (classes @ classes) * classes
        torch.testing.assert_close(own, left, **NEAR)


def test_with_batches_of_their_own_losses_share_the_examples() -> None:
    """Of 5 examples the first loss has 3 and the second 2; what is reported is the first's."""
    module = two_heads()
    step = step_of(module)
    terms = Together(shape=(INPUTS,), outputs=CLASSES).terms(step)
    found, losses = Combined(CAGrad(0.0), batches="own").gradients(step, terms)
    half = -(-B // 2)
    for k, own in enumerate(step.layout.join(found)):
        flat = step.tasks[k].params.clone().requires_grad_()
        scores = functional_call(module, step.layout.unflatten(flat), (step.x[k],))
        classes = nn.functional.cross_entropy(scores[:half, :CLASSES], step.y[k][:half], reduction="none")
        loss = classes.mean() + 20 * (scores[half:, CLASSES:] - step.x[k][half:]).square().mean()
        torch.testing.assert_close(own, torch.autograd.grad(loss, [flat])[0], **NEAR)
        assert sorted(set(losses[k].tolist())) == pytest.approx(sorted(classes.tolist()))
    assert losses.shape == (K, B)
    assert Combined(CAGrad(), batches="own").effort(2) == 1
    assert Combined(CAGrad()).effort(2) == 2
    one = replace(step, x=step.x[:, :1], y=step.y[:, :1])
    with pytest.raises(ValueError, match="has no part for each of 2 losses"):
        Combined(CAGrad(), batches="own").gradients(one, Together(shape=(INPUTS,), outputs=CLASSES).terms(one))


# In a scenario --------------------------------------------------------------------------------------------------------

MODEL = {"mlp": {"hidden": [12], "activation": "gelu", "further": 64}}
HEADS = {"model": MODEL, "evaluate": {"every": "1 h", "exam": "reconstruction"}}


def assembled(source, objective="together", **changes) -> experiment.Experiment:
    local = {**DIGITS["local"], "objective": objective, "source": source, **changes.pop("local", {})}
    [arm] = scenario.read(DIGITS | HEADS | {"local": local} | changes)
    return experiment.assemble(arm)


def run(source, **changes):
    simulation = assembled(source, **changes).simulation(Recording())
    simulation.run()
    return simulation


COMBINERS = ["pcgrad", "cagrad", "gcond", {"gcond": {"momentum": 0.0}}]


@pytest.mark.parametrize("batches", ["shared", "own"])
@pytest.mark.parametrize("combiner", COMBINERS, ids=str)
def test_company_does_not_count(combiner, batches) -> None:
    source = {"combined": {"combiner": combiner, "batches": batches}}
    made = assembled(source, model={"mlp": {"hidden": [12], "further": 64}})
    state, torchs = random.getstate(), torch.random.get_rng_state()
    before = np.random.get_state()[1].copy()
    tasks = [LocalTask(client, made.params, 1, steps) for client, steps in ((0, 4), (3, 2), (5, 4))]
    together = made.trainer(tasks)
    for task, result in zip(tasks, together, strict=True):
        [alone] = made.trainer([task])
        assert torch.equal(alone.delta, result.delta)
        assert alone.loss == result.loss
        assert not result.kept.own, "a combiner's memory begins anew"
    assert random.getstate() == state
    assert torch.equal(torch.random.get_rng_state(), torchs)
    assert np.array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("aggregator", [{"fedavg": {"cohort": 4}}, {"fedbuff": {"concurrency": 4, "goal": 2}}])
def test_any_server_runs_it_and_sees_both_tasks(aggregator) -> None:
    source = {"combined": {"combiner": "gcond"}}
    found = run(source, aggregator=aggregator)
    last, first = found.progress.rows[-1], found.progress.rows[0]
    assert last["accuracy"] > first["accuracy"]
    assert last["reconstruction_error"] < first["reconstruction_error"]
    plain = run("backpropagation", aggregator=aggregator)
    assert not torch.equal(found.aggregator.params, plain.aggregator.params)


@pytest.mark.parametrize(("batches", "price"), [("shared", 2), ("own", 1)])
def test_a_loss_more_costs_a_gradient_more_unless_it_has_its_own_part(batches, price) -> None:
    plain = assembled("backpropagation").work.seen
    assert assembled({"combined": {"combiner": "pcgrad", "batches": batches}}).work.seen == [price * n for n in plain]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"objective": None}, "model: mlp gives 74 scores, where 10 are read, 0 of them beside outputs"),
     ({"model": "logistic"}, "logistic gives 10 scores, where 74 are read, 64 of them beside"),
     ({"model": "logistic", "objective": None}, "an example has 64 numbers, and the model 0 scores"),
     ({"local": {"private": {"clip": 1.0, "multiplier": 1.0}}, "source": "backpropagation"}, "adds up 2 losses"),
     ({"source": {"combined": {"combiner": "pcgrda"}}}, "did you mean pcgrad")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        assembled(changes.pop("source", {"combined": {"combiner": "pcgrad"}}), **changes)
