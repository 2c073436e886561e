"""Federated adversarial learning: attacks reach what can be reached, and training is what it is defined to be."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from networks import B, K, dense, draws, numbers, stacked
from torch import Tensor, nn
from torch.func import functional_call
from worlds import changed

from fedsim.errors import ScenarioError
from fedsim.gradients.closed_form import ClosedForm
from fedsim.gradients.single import Single
from fedsim.gradients.vmapped import Vmapped
from fedsim.objectives import PGD, Adversarial

DIGITS = {
    "seed": 3,
    "until": {"versions": 4},
    "data": {"digits": {"partition": "iid"}},
    "model": {"mlp": {"hidden": [16]}},
    "fleet": {"clients": 6, "devices": "fedscale"},
    "local": {"steps": 3, "batch": 16, "optimizer": {"sgd": {"lr": 0.2}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "1 h"},
}
ATTACK = {"radius": 0.2, "step": 0.05, "steps": 4}


def losses(module: nn.Module, params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """(K, B), one client after another."""
    each = [functional_call(module, {name: part[k] for name, part in params.items()}, (x[k],)) for k in range(len(x))]
    return torch.stack([nn.functional.cross_entropy(scores, y[k], reduction="none") for k, scores in enumerate(each)])


# Slopes of inputs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(5, 3), (5, 4, 3), (6, 1, 4, 2)])
@pytest.mark.parametrize("clients", [1, K])
def test_every_source_has_the_slopes_of_inputs_that_autograd_has(widths, clients) -> None:
    module, y = dense(*widths), torch.arange(clients * B).view(clients, B) % widths[-1]
    params, x = stacked(module, clients), numbers(clients, B, widths[0]).requires_grad_()
    expected = losses(module, params, x, y)
    [slope] = torch.autograd.grad(expected.sum(), [x])
    x = x.detach()
    for source in (ClosedForm(module), Vmapped(module)):
        found, loss = source.of_inputs(params, x, y)
        torch.testing.assert_close(found, slope, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-4, atol=1e-6)
    for k in range(clients):
        one = {name: part[k : k + 1] for name, part in params.items()}
        found, _ = Single(module).of_inputs(one, x[k : k + 1], y[k : k + 1])
        torch.testing.assert_close(found[0], slope[k], rtol=1e-4, atol=1e-6)


# The attack -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [True, False])
def test_it_stays_in_the_ball_and_in_the_range(norm, random_start) -> None:
    module = dense(12, 8, 3)
    x, y = numbers(K, B, 12).sigmoid(), torch.arange(K * B).view(K, B) % 3
    pgd = PGD(radius=0.3, step=0.1, steps=6, norm=norm, random_start=random_start, low=0.1, high=0.9)
    x = x.clamp(0.1, 0.9)
    moved = pgd.attack(ClosedForm(module), stacked(module), x, y, draws())
    away = (moved - x).flatten(2)
    length = away.abs().amax(2) if norm == "linf" else away.norm(dim=2)
    assert float(length.max()) <= 0.3 + 1e-6
    assert float(length.min()) > 0.01
    assert float(moved.min()) >= 0.1
    assert float(moved.max()) <= 0.9


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_of_a_linear_model_it_reaches_the_worst_there_is(norm) -> None:
    """Two classes: the margin falls by radius times the dual norm of the difference of both rows of weights."""
    module = dense(9, 2)
    params, x, y = stacked(module), numbers(K, B, 9), torch.arange(K * B).view(K, B) % 2
    pgd = PGD(radius=0.4, step=0.1, steps=80, norm=norm, low=-100, high=100)
    moved = pgd.attack(ClosedForm(module), params, x, y, draws())
    weight, bias = params["1.weight"], params["1.bias"]
    apart, sign = weight[:, 1] - weight[:, 0], (2 * y - 1).float()
    margin = sign * (torch.einsum("kbi,ki->kb", x, apart) + (bias[:, 1] - bias[:, 0])[:, None])
    dual = apart.abs().sum(1) if norm == "linf" else apart.norm(dim=1)
    worst = nn.functional.softplus(-(margin - 0.4 * dual[:, None]))
    torch.testing.assert_close(losses(module, params, moved, y), worst, rtol=1e-4, atol=1e-5)


def test_the_best_of_it_is_never_below_the_clean_loss_and_grows_with_radius_and_restarts() -> None:
    module = dense(12, 16, 3)
    params, x, y = stacked(module), numbers(K, B, 12).sigmoid(), torch.arange(K * B).view(K, B) % 3
    source, before = ClosedForm(module), losses(module, stacked(module), x, y)
    for radius, restarts in ((0.0, 1), (0.05, 1), (0.05, 4), (0.2, 4)):
        pgd = PGD(radius=radius, step=0.02, steps=15, restarts=restarts, best=True)
        now = losses(module, params, pgd.attack(source, params, x, y, draws()), y)
        assert (now >= before - 1e-5).all() or radius > 0.05
        assert float(now.mean()) >= float(before.mean()) - 1e-6
        before = now


def test_a_client_is_attacked_alike_in_any_company() -> None:
    module = dense(12, 16, 3)
    params, x, y = stacked(module), numbers(K, B, 12).sigmoid(), torch.arange(K * B).view(K, B) % 3
    pgd = PGD(radius=0.2, step=0.05, steps=5, restarts=2)
    together = pgd.attack(ClosedForm(module), params, x, y, draws())
    for k in range(K):
        one = {name: part[k : k + 1] for name, part in params.items()}
        alone = pgd.attack(ClosedForm(module), one, x[k : k + 1], y[k : k + 1], draws()[k : k + 1])
        assert torch.equal(alone[0], together[k])


# Training -------------------------------------------------------------------------------------------------------------


def run(local: dict | None = None, **changes):
    return changed(DIGITS, local, **changes)


def objective(**arguments) -> dict:
    return {"objective": {"adversarial": ATTACK | arguments}}


def test_without_radius_or_steps_it_is_fedavg() -> None:
    plain = run()[1].aggregator.params
    for nothing in ({"radius": 0.0}, {"steps": 0}):
        assert torch.equal(run(objective(**nothing))[1].aggregator.params, plain)
    assert not torch.equal(run(objective())[1].aggregator.params, plain)


@pytest.mark.parametrize("model", [DIGITS["model"], {"cnn_group": {"channels": [8]}}])
@pytest.mark.parametrize("regenerate", ["step", "round"])
def test_it_is_the_same_under_every_executor(model, regenerate) -> None:
    local = objective(regenerate=regenerate, norm="l2", radius=1.0)
    found = [run(local, executor=kind, model=model)[1] for kind in ("inline", "stacked", "null")]
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert found[0].trace.digest() == found[1].trace.digest() == found[2].trace.digest()


def test_made_once_a_round_and_at_every_step_differ_from_the_second_step_on() -> None:
    for steps in (1, 3):
        each, once = (run({**objective(regenerate=how), "steps": steps}, until={"versions": 1})[1].aggregator.params
                      for how in ("step", "round"))  # fmt: skip
        assert torch.equal(each, once) == (steps == 1)


def test_one_step_of_all_is_one_step_of_centralised_adversarial_training() -> None:
    """K = 1, whole parts as batches, weights by examples: a step along the gradient at everybody's moved examples."""
    local = {**objective(random_start=False), "steps": 1, "batch": 2000}
    made, simulation = run(local, until={"versions": 1})
    module, x, y = made.evaluator.model, made.trainer.x.unsqueeze(0), made.trainer.y.unsqueeze(0)
    start = {name: part.unsqueeze(0) for name, part in made.layout.unflatten(made.params).items()}
    moved = Adversarial(**ATTACK, random_start=False).attack(Vmapped(module), start, x, y, draws(1))
    grads, _ = Vmapped(module)(start, moved, y)
    whole = made.params - 0.2 * made.layout.join({name: part.squeeze(0) for name, part in grads.items()})
    torch.testing.assert_close(simulation.aggregator.params, whole, rtol=1e-4, atol=1e-5)


def test_moving_examples_takes_its_time() -> None:
    plain, moved = run()[0].work, run(objective())[0].work
    assert all(slow == round(fast * (1 + 2 / 3 * 4)) for slow, fast in zip(moved.seen, plain.seen, strict=True))


@pytest.mark.parametrize("arguments", [{}, {"steps": 0}, {"radius": 0.0}, {"restarts": 3}, {"best": True}])
def test_its_price_is_what_it_computes(arguments) -> None:
    """Forward, and back to the input: two thirds of a training each time."""
    module, passes = dense(12, 3), []

    class Counting(ClosedForm):
        def of_inputs(self, *given, **named):
            passes.append(1)
            return super().of_inputs(*given, **named)

    x, y = numbers(K, B, 12).sigmoid(), torch.arange(K * B).view(K, B) % 3
    pgd = Adversarial(**{**ATTACK, **arguments})
    pgd.attack(Counting(module), stacked(module), x, y, draws())
    assert pgd.effort == pytest.approx(1 + len(passes) * 2 / 3)


def test_training_on_it_makes_robust(tmp_path) -> None:
    """By a stronger attack than that of training, on the test set; and clean accuracy is not above plain training's."""
    robust = {"every": "100 h", "robust": {"radius": 0.15, "step": 0.02, "steps": 15, "restarts": 2}}
    rows = {}
    for name, local in (("plain", {}), ("adversarial", objective(radius=0.15))):
        model = {"mlp": {"hidden": [32]}}
        _, simulation = run({**local, "steps": 10}, until={"versions": 40}, evaluate=robust, model=model)
        rows[name] = simulation.progress.rows[-1]
        assert rows[name]["robust_loss"] >= rows[name]["loss"]
        assert rows[name]["robust_accuracy"] <= rows[name]["accuracy"]
    assert rows["adversarial"]["robust_accuracy"] > rows["plain"]["robust_accuracy"] + 0.1
    assert rows["adversarial"]["robust_loss"] < rows["plain"]["robust_loss"]


def test_robustness_can_be_shown_for_every_client() -> None:
    evaluate = {"every": "100 h", "train": True, "clients": True, "robust": ATTACK}
    _, simulation = run(evaluate=evaluate)
    last = simulation.progress.rows[-1]
    for name, kind in product(("accuracy", "loss"), ("train_", "train_robust_")):
        assert f"{kind}{name}" in last
        assert f"{kind}{name}_std" in last
    assert last["train_robust_loss"] > last["train_loss"]


@pytest.mark.parametrize(
    ("local", "sentence"),
    [(objective(radius=-1), "local.objective.adversarial.radius"), (objective(norm="l1"), "norm"),
     (objective(low=1, high=0), "a range from 1.0 to 0.0 is none"),
     ({"objective": "adverserial"}, "did you mean adversarial"),
     (objective(stepz=1), "did you mean step")],
)  # fmt: skip
def test_what_makes_no_sense_is_one_line(local, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        run(local)
