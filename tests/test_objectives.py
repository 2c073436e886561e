"""TRADES and CalFAT: their losses, slopes and examples are what the papers define, in any company."""

from __future__ import annotations

import pytest
import torch
from networks import B, K, dense, numbers, stacked
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.errors import ScenarioError
from fedsim.gradients import ClosedForm, Gradients, PerExample, Single, Vmapped
from fedsim.gradients.closed_form import at_most
from fedsim.losses import CrossEntropy, Loss, SoftCrossEntropy, TradeOff
from fedsim.objectives import CalFAT, Objective, Step, Trades
from fedsim.vector import Layout
from fedsim.work import LocalTask

CLASSES = 4
Y = torch.arange(K * B).view(K, B) % CLASSES
SHARES = [[0.7, 0.3, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.1, 0.2, 0.7]]
ATTACK = {"radius": 0.2, "step": 0.05, "steps": 4}
DIGITS = {
    "seed": 3,
    "until": {"versions": 3},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.3}}}},
    "model": {"mlp": {"hidden": [16]}},
    "fleet": {"clients": 6, "devices": "fedscale"},
    "local": {"steps": 3, "batch": 16, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "1 h"},
}


def trade_off(clean: Tensor, moved: Tensor, y: Tensor, beta: float) -> Tensor:
    """By the definition, in torch's own words: (B,)."""
    divergence = functional.kl_div(moved.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True)
    return functional.cross_entropy(clean, y, reduction="none") + beta * divergence.sum(1)


def by_autograd(loss: Loss, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (K, B) and the slope (K, scores a client, outputs) of each client's mean."""
    scores = scores.detach().requires_grad_()
    losses = torch.stack([loss.each(own, label) for own, label in zip(scores, y, strict=True)])
    [slope] = torch.autograd.grad(losses.mean(1).sum(), [scores])
    return losses.detach(), slope


# Losses ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.5, 6.0])
def test_the_trade_off_is_its_definition_and_its_slope_is_autograds(beta) -> None:
    scores, loss = 3 * numbers(K, 2 * B, CLASSES).double(), TradeOff(beta)
    losses, slope = loss.slope(scores.mT.clone(), Y)
    expected, its = by_autograd(loss, scores, Y)
    defined = torch.stack([trade_off(own[:B], own[B:], y, beta) for own, y in zip(scores, Y, strict=True)])
    for found in (losses, expected):
        torch.testing.assert_close(found, defined, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, its, rtol=1e-12, atol=1e-12)


def test_to_chances_in_place_of_labels_its_slope_is_autograds_and_that_of_the_divergence() -> None:
    scores, chances = 3 * numbers(K, B, CLASSES).double(), numbers(1, K, B, CLASSES)[0].double().softmax(2)
    losses, slope = SoftCrossEntropy().slope(scores.mT.clone(), chances)
    expected, its = by_autograd(SoftCrossEntropy(), scores, chances)
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, its, rtol=1e-12, atol=1e-12)
    moving = scores.clone().requires_grad_()
    [of_divergence] = torch.autograd.grad(
        functional.kl_div(moving.log_softmax(2), chances, reduction="sum") / B, [moving]
    )
    torch.testing.assert_close(slope, of_divergence, rtol=1e-12, atol=1e-12)


def test_to_a_certain_chance_it_is_the_cross_entropy_of_labels() -> None:
    scores = numbers(K, B, CLASSES)
    certain = functional.one_hot(Y, CLASSES).float()
    soft, hard = SoftCrossEntropy().slope(scores.mT.clone(), certain), CrossEntropy().slope(scores.mT.clone(), Y)
    for one, other in zip(soft, hard, strict=True):
        torch.testing.assert_close(one, other)


# Gradients ------------------------------------------------------------------------------------------------------------

CASES = {
    "plain": (None, Y, 1, False),
    "offset": (None, Y, 1, True),
    "chances": (SoftCrossEntropy(), numbers(2, K, B, CLASSES)[0].double().softmax(2), 1, True),
    "pairs": (TradeOff(2.0), Y, 2, False),
    "pairs, offset": (TradeOff(2.0), Y, 2, True),
}
EVERY_CASE = pytest.mark.parametrize("case", CASES)


def given(case: str, module: nn.Module, clients: int = K, batch: int = B) -> tuple[dict, Tensor, Tensor, dict]:
    """Parameters, points, labels, and the rest by keyword, in the module's precision."""
    loss, y, points, shifted = CASES[case]
    kind = next(module.parameters()).dtype
    x = numbers(K, points * batch, 5)[:clients].to(kind)
    offset = numbers(K, CLASSES)[:clients].to(kind) if shifted else None
    y = y[:clients, :batch]
    return stacked(module, clients), x, y.to(kind) if y.is_floating_point() else y, {"loss": loss, "offset": offset}


def oracle(module: nn.Module, params: dict, x: Tensor, y: Tensor, loss: Loss | None, offset: Tensor | None):
    """One client after another by autograd: gradients, slopes of inputs, losses, scores without the offset."""
    grads, slopes, losses, scores = [], [], [], []
    for k in range(len(x)):
        own = {name: part[k].clone().requires_grad_() for name, part in params.items()}
        point = x[k].clone().requires_grad_()
        out = functional_call(module, own, (point,))
        each = (loss or CrossEntropy()).each(out if offset is None else out + offset[k], y[k])
        grads.append(torch.autograd.grad(each.mean(), list(own.values()), retain_graph=True))
        slopes.append(torch.autograd.grad(each.sum(), [point])[0])
        losses.append(each.detach())
        scores.append(out.detach())
    whole = {name: torch.stack([own[place] for own in grads]) for place, name in enumerate(params)}
    return whole, torch.stack(slopes), torch.stack(losses), torch.stack(scores)


def check(source: Gradients, params: dict, x: Tensor, y: Tensor, rest: dict, expected: tuple, k: slice) -> None:
    grads, slopes, losses, scores = expected
    near = {"rtol": 1e-10, "atol": 1e-12}
    found, its = source(params, x, y, **rest)
    for name, grad in grads.items():
        torch.testing.assert_close(found[name], grad[k], **near)
    torch.testing.assert_close(its.detach(), losses[k], **near)
    slope, its = source.of_inputs(params, x, y, **rest)
    torch.testing.assert_close(slope, slopes[k], **near)
    torch.testing.assert_close(its.detach(), losses[k], **near)
    torch.testing.assert_close(source.scores(params, x), scores[k], **near)


@EVERY_CASE
@pytest.mark.parametrize("widths", [(5, CLASSES), (5, 6, CLASSES), (5, 1, 4, CLASSES)])
@pytest.mark.parametrize(("clients", "batch"), [(1, B), (1, 1), (K, B), (K, 1)])
def test_every_source_is_autograd(case, widths, clients, batch) -> None:
    module = dense(*widths).double()
    params, x, y, rest = given(case, module, clients, batch)
    expected = oracle(module, params, x, y, **rest)
    for source in (ClosedForm(module), Vmapped(module), PerExample(module, clip=1e9)):
        check(source, params, x, y, rest, expected, slice(clients))
    for k in range(clients):
        one, alone = slice(k, k + 1), {name: part[k : k + 1] for name, part in params.items()}
        own = rest | {"offset": None if rest["offset"] is None else rest["offset"][one]}
        check(Single(module), alone, x[one], y[one], own, expected, one)


@EVERY_CASE
@pytest.mark.parametrize("widths", [(5, CLASSES), (5, 33, CLASSES), (5, 1, 4, CLASSES)])
@pytest.mark.parametrize("batch", [1, B])
def test_by_hand_it_is_the_same_to_the_last_bit_in_any_company(case, widths, batch) -> None:
    source = ClosedForm(module := dense(*widths))
    params, x, y, rest = given(case, module, batch=batch)
    grads, losses = source(params, x, y, **rest)
    slopes, scores = source.of_inputs(params, x, y, **rest)[0], source.scores(params, x)
    for k in range(K):
        one, alone = slice(k, k + 1), {name: part[k : k + 1].clone() for name, part in params.items()}
        own = rest | {"offset": None if rest["offset"] is None else rest["offset"][one].clone()}
        found, its = source(alone, x[one].clone(), y[one].clone(), **own)
        assert torch.equal(its, losses[one])
        assert all(torch.equal(found[name], grad[one]) for name, grad in grads.items())
        assert torch.equal(source.of_inputs(alone, x[one], y[one], **own)[0], slopes[one])
        assert torch.equal(source.scores(alone, x[one]), scores[one])


def test_of_private_pairs_a_pair_is_what_is_clipped() -> None:
    module = dense(5, 6, CLASSES).double()
    params, x, y, rest = given("pairs", module)
    clipped, _ = PerExample(module, clip=0.1)(params, x, y, **rest)
    for k in range(K):
        own, means = {name: part[k : k + 1] for name, part in params.items()}, []
        for b in range(B):
            pair = x[k, [b, B + b]].unsqueeze(0)
            grads, _ = Vmapped(module)(own, pair, y[k : k + 1, b : b + 1], **rest)
            flat = torch.cat([part.flatten() for part in grads.values()])
            means.append(flat * min(1.0, 0.1 / float(flat.norm())))
        expected = torch.stack(means).mean(0)
        found = torch.cat([part[k].flatten() for part in clipped.values()])
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


# Examples -------------------------------------------------------------------------------------------------------------


def step_of(objective: Objective, module: nn.Module, x: Tensor, start: nn.Module | None = None) -> Step:
    """Of K clients, at the parameters of `stacked`; they have started from those of another module, if one is given."""
    layout = Layout.of(module)
    begun = stacked(start or module)
    params = [layout.join({name: part[k] for name, part in begun.items()}) for k in range(K)]
    tasks = [LocalTask(k, params[k], ordinal=2, steps=5) for k in range(K)]
    return Step(ClosedForm(module), stacked(module), x, Y, objective.offset(tasks), tasks, 3, 1, layout,
                rows=torch.zeros(K, B, dtype=torch.int64), look_up=lambda rows: (x[0][rows], Y[0][rows]),
                memory=[{}] * K)  # fmt: skip


def walked(module: nn.Module, attacked: dict, step: Step, objective: Trades | CalFAT) -> Tensor:
    """Signed steps up KL(p || p'), from the objective's own random start, by autograd; one client after another."""
    found = []
    begin = objective._start(step.x, step.draws("adversarial"))
    for k in range(K):
        own = {name: part[k] for name, part in attacked.items()}
        shift = 0.0 if step.offset is None else step.offset[k]
        clean, point = (functional_call(module, own, (step.x[k],)) + shift).log_softmax(1), begin[k]
        for _ in range(objective.steps):
            point = point.detach().requires_grad_()
            there = (functional_call(module, own, (point,)) + shift).log_softmax(1)
            [slope] = torch.autograd.grad(functional.kl_div(there, clean, reduction="sum", log_target=True), [point])
            away = (point + objective.step * slope.sign() - step.x[k]).clamp(-objective.radius, objective.radius)
            point = (step.x[k] + away).clamp(0, 1)
        found.append(point.detach())
    return torch.stack(found)


@pytest.mark.parametrize("regenerate", ["step", "round"])
@pytest.mark.parametrize("kind", ["trades", "calfat"])
def test_examples_are_moved_up_the_divergence(kind, regenerate) -> None:
    module, start = dense(5, 8, CLASSES).double(), dense(5, 8, CLASSES).double()
    with torch.no_grad():
        for part in start.parameters():
            part.mul_(-2)
    x = numbers(K, B, 5).sigmoid().double()
    objective = Trades(**ATTACK, regenerate=regenerate) if kind == "trades" else CalFAT(
        **ATTACK, regenerate=regenerate, labels=SHARES)  # fmt: skip
    step = step_of(objective, module, x, start)
    expected = walked(module, stacked(module if regenerate == "step" else start), step, objective)
    points = objective.examples(step)
    if kind == "trades":
        assert torch.equal(points[:, :B], x)
        points = points[:, B:]
    torch.testing.assert_close(points, expected, rtol=1e-9, atol=1e-9)
    assert float((points - x).abs().max()) <= 0.2 + 1e-9
    assert not torch.equal(points, x)


def test_calibration_is_the_log_of_a_clients_own_shares() -> None:
    calfat = CalFAT(**ATTACK, labels=SHARES, floor=1e-6)
    tasks = [LocalTask(client, torch.zeros(2), 0, 1) for client in (2, 0)]
    expected = torch.tensor([SHARES[2], SHARES[0]]).add(1e-6).log()
    torch.testing.assert_close(calfat.offset(tasks), expected)


def test_with_equal_shares_calibration_changes_nothing() -> None:
    module, x = dense(5, 8, CLASSES).double(), numbers(K, B, 5).sigmoid().double()
    calfat, trades = CalFAT(**ATTACK, labels=[[1 / CLASSES] * CLASSES] * K), Trades(**ATTACK)
    step = step_of(calfat, module, x)
    moved = calfat.examples(step)
    torch.testing.assert_close(moved, trades.examples(step_of(trades, module, x))[:, B:], rtol=1e-9, atol=1e-9)
    with_it, without = (step.source(step.params, moved, Y, offset=offset)[0] for offset in (step.offset, None))
    for name, grad in without.items():
        torch.testing.assert_close(with_it[name], grad, rtol=1e-8, atol=1e-10)


# Training -------------------------------------------------------------------------------------------------------------


def assembled(local: dict, **changes) -> experiment.Experiment:
    [arm] = scenario.read(DIGITS | {"local": {**DIGITS["local"], **local}} | changes)
    return experiment.assemble(arm)


def run(local: dict, **changes):
    made = assembled(local, **changes)
    simulation = made.simulation(Recording())
    simulation.run()
    return made, simulation


def objective(name: str, **arguments) -> dict:
    return {"objective": {name: ATTACK | arguments}}


@pytest.mark.parametrize("kind", ["trades", "calfat"])
@pytest.mark.parametrize("model", [DIGITS["model"], {"cnn_group": {"channels": [8]}}])
def test_it_is_the_same_under_every_executor(kind, model) -> None:
    found = [run(objective(kind), executor=how, model=model)[1] for how in ("inline", "stacked", "null")]
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert found[0].trace.digest() == found[1].trace.digest() == found[2].trace.digest()


@pytest.mark.parametrize("kind", ["trades", "calfat"])
@pytest.mark.parametrize("threads", [1, 2])
def test_of_unequal_trainings_each_is_the_same_alone(kind, threads) -> None:
    made = assembled({**objective(kind, steps=2), "batch": 200}, model={"mlp": {"hidden": [300, 200]}})
    tasks = [LocalTask(client, made.params, client % 2, 1 + client % 3) for client in range(6)]
    with at_most(1):
        alone = [made.trainer([task])[0] for task in tasks]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = made.trainer(tasks)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.delta, other.delta)
        assert one.loss == other.loss


@pytest.mark.parametrize("nothing", [{"radius": 0.0}, {"steps": 0}, {"beta": 0.0}])
def test_trades_without_a_move_or_its_price_is_fedavg(nothing) -> None:
    plain, trades = (run(local)[1].aggregator.params for local in ({}, objective("trades", **nothing)))
    torch.testing.assert_close(trades, plain, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(run(objective("trades"))[1].aggregator.params, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["trades", "calfat"])
def test_a_step_goes_down_the_definition_and_reports_it(kind) -> None:
    """One client, its whole part as its batch."""
    made = assembled({**objective(kind), "steps": 1, "batch": 2000})
    trainer, module, client = made.trainer, made.evaluator.model, 4
    task = LocalTask(client, made.params, 0, 1)
    [result] = trainer([task])
    rows, y = trainer.visits([task])
    offset = trainer.objective.offset([task])
    named = {name: part.unsqueeze(0) for name, part in made.layout.unflatten(made.params).items()}
    step = Step(Vmapped(module), named, trainer.x[rows], y, offset, [task], 0, made.given["seed"], made.layout,
                rows, trainer.look_up, [{}])  # fmt: skip
    [term] = trainer.objective.terms(step)
    points = term.points.squeeze(0)
    flat = made.params.clone().requires_grad_()
    scores = functional_call(module, made.layout.unflatten(flat), (points,))
    if kind == "trades":
        losses = trade_off(*scores.chunk(2), y[0], beta=6.0)
    else:
        shares = torch.bincount(y[0], minlength=10) / y.numel()
        losses = functional.cross_entropy(scores + (shares + 1e-7).log(), y[0], reduction="none")
    [gradient] = torch.autograd.grad(losses.mean(), [flat])
    torch.testing.assert_close(result.delta, -0.1 * gradient, rtol=1e-3, atol=1e-6)
    assert result.loss == pytest.approx(losses.mean().item(), rel=1e-4)


def test_what_a_client_lacks_it_does_not_unlearn() -> None:
    """The bias of a class that it never saw: plain training lowers it, calibrated training leaves it alone."""
    fall = {}
    for kind in ("adversarial", "calfat"):
        made = assembled({**objective(kind), "steps": 5, "batch": 32})
        shares = torch.tensor(made.given["labels"])
        client, lacked = (shares == 0).nonzero()[0].tolist()
        [result] = made.trainer([LocalTask(client, made.params, 0, 5)])
        fall[kind] = -float(list(made.layout.unflatten(result.delta).values())[-1][lacked])
    assert fall["adversarial"] > 1e-2
    assert abs(fall["calfat"]) < 1e-6


@pytest.mark.parametrize(("kind", "beside"), [("trades", 2 + 1 / 3), ("calfat", 1 + 1 / 3)])
def test_it_takes_its_time(kind, beside) -> None:
    plain, moved, still = (assembled(local).work.seen for local in ({}, objective(kind), objective(kind, radius=0)))
    for fast, slow, unmoved in zip(plain, moved, still, strict=True):
        assert slow == round(fast * (beside + 4 * 2 / 3))
        assert unmoved == fast * round(beside - 1 / 3)


def test_trades_can_be_private() -> None:
    private = {**objective("trades"), "private": {"clip": 1.0, "multiplier": 1.0}, "steps": 2}
    noisy, again = (run(private, model="logistic", executor=how)[1] for how in ("inline", "stacked"))
    assert torch.equal(noisy.aggregator.params, again.aggregator.params)
    quiet, wide = {**private, "private": {"clip": 1e6, "multiplier": 0}}, {**private, "private": None}
    one, other = (run(local, model="logistic")[1].aggregator.params for local in (quiet, wide))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


POINTS = {
    "data": {"separated": {"clients": 3, "gamma": 0.5, "pairs": 2}},
    "model": {"two_layer_relu": {"width": 8}},
    "fleet": {"clients": 3, "devices": "fedscale"},
}


@pytest.mark.parametrize(
    ("local", "changes", "sentence"),
    [(objective("trades"), POINTS, "local.objective: trades is for classes, which these data do not have"),
     (objective("calfat"), POINTS, "local.objective: calfat is for classes, which these data do not have"),
     (objective("trades", random_start=False), {}, "random_start: at an example itself"),
     (objective("trades", beta=-1), {}, "beta"), (objective("calfat", floor=0), {}, "floor"),
     ({**objective("calfat"), "private": {"clip": 1.0, "multiplier": 1.0}}, {},
      "every gradient of a client depends on its share of each class, which local.private gives no noise"),
     (objective("calfat", labels=[]), {}, "labels")],
)  # fmt: skip
def test_what_makes_no_sense_is_one_line(local, changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence) as raised:
        assembled(local, **changes)
    assert "\n" not in str(raised.value)
