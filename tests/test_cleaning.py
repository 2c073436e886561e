"""Bilevel hyper-cleaning: z solves its system, h is the gradient of what comes out above, weights move by eta."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy, one_hot
from worlds import changed

from fedsim.data import Digits, Noisy, Parts
from fedsim.errors import ScenarioError
from fedsim.gradients import ClosedForm, Single
from fedsim.losses import WeightedCrossEntropy
from fedsim.models.dense import mlp
from fedsim.objectives import Step
from fedsim.objectives.term import Term
from fedsim.probes import Cleaning
from fedsim.rng import stream
from fedsim.sources import BoRep
from fedsim.vector import Layout
from fedsim.work import LocalTask

DIGITS = {
    "seed": 3,
    "until": {"versions": 4},
    "data": {"digits": {"partition": {"noisy": {"share": 0.4, "clean": 10}}}},
    "model": "logistic",
    "fleet": {"clients": 4, "devices": "fedscale"},
    "local": {"steps": 5, "batch": 16, "optimizer": {"sgd": {"lr": 0.2}}, "probe": "cleaning",
              "source": {"borep": {"eta": 0.3, "nu": 0.1}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "100 h"},
}  # fmt: skip
N, CLASSES = 24, 3


def borep(**arguments) -> dict:
    return {"source": {"borep": {"eta": 0.3, "nu": 0.1} | arguments}}


def run(local: dict | None = None, **changes):
    return changed(DIGITS, local, **changes)


class Small:
    """One client whose batch is all that it has: logistic regression of N examples, and as many clean ones."""

    def __init__(self, **arguments) -> None:
        draw = stream(1, "small")
        self.x = torch.from_numpy(draw.standard_normal((2 * N, 4)))
        self.y = torch.from_numpy(draw.integers(0, CLASSES, 2 * N))
        self.module = mlp((4,), CLASSES, []).double()
        self.layout = Layout.of(self.module)
        self.flat = torch.from_numpy(draw.standard_normal(self.layout.size)) / 2
        parts = Parts([np.arange(N)[::-1].copy()], [self.y[:N].flip(0).numpy()], clean=[np.arange(N, 2 * N)])
        self.source = BoRep(classes=CLASSES, parts=parts, **{"decay": 0.05, **arguments})
        self.memory: dict[str, torch.Tensor] = {}
        self.rows = torch.arange(N)[None]

    def step(self, number: int = 0) -> Step:
        params = self.layout.unflatten(self.flat[None])
        task = LocalTask(0, self.flat, 0, 9)
        return Step(ClosedForm(self.module), params, *self.batch(), None, [task], number, 1, self.layout, self.rows,
                    lambda rows: (self.x[rows], self.y[rows]), [self.memory])  # fmt: skip

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[self.rows], self.y[self.rows]

    def take(self, number: int = 0):
        step = self.step(number)
        return self.source.gradients(step, [Term("loss", step.x, step.y)])

    def lower(self, flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """g by its definition; `x` in the order of the batch."""
        losses = cross_entropy(self.scores(flat, self.x[:N]), self.y[:N], reduction="none")
        return (x.sigmoid() * losses).mean() + self.source.decay * flat.square().sum() / 2

    def scores(self, flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return functional_call(self.module, self.layout.unflatten(flat), (x,))

    def clean(self, step: Step) -> torch.Tensor:
        """grad_y f on the clean batch of this step."""
        term = self.source._clean(step)
        flat = self.flat.clone().requires_grad_()
        [slope] = torch.autograd.grad(cross_entropy(self.scores(flat, term.points[0]), term.y[0]), [flat])
        return slope


# The rule -------------------------------------------------------------------------------------------------------------


def test_z_becomes_the_solution_of_its_system() -> None:
    """With y and x fixed: H^-1 grad_y f. The same step number draws the same clean batch."""
    small = Small(nu=0.5, eta=1e-300)
    for _ in range(2000):
        small.take()
    x = torch.zeros(N, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda flat: small.lower(flat, x), small.flat)
    wanted = torch.linalg.solve(hessian, small.clean(small.step()))
    torch.testing.assert_close(small.memory["z"], wanted, rtol=0, atol=5e-7)


def test_h_is_the_gradient_of_what_comes_out_above() -> None:
    """At the lower optimum: d f(y*(x)) / dx, by implicit differentiation of the definition; m = h with beta 0."""
    small = Small(nu=0.5, eta=1e-300, beta=0.0)
    x = torch.from_numpy(stream(2, "x").standard_normal(N))
    for _ in range(3000):
        flat = small.flat.clone().requires_grad_()
        small.flat = small.flat - 0.5 * torch.autograd.grad(small.lower(flat, x), [flat])[0]
    small.memory["x"] = x.flip(0)  # the client holds them in another order
    for _ in range(2000):
        small.take()
    flat, own = small.flat.clone().requires_grad_(), x.clone().requires_grad_()
    [slope] = torch.autograd.grad(small.lower(flat, own), [flat], create_graph=True)
    hessian = torch.autograd.functional.hessian(lambda flat: small.lower(flat, x), small.flat)
    z = torch.linalg.solve(hessian, small.clean(small.step()))
    [mixed] = torch.autograd.grad(slope @ z, [own])
    torch.testing.assert_close(small.memory["m"].flip(0), -mixed, rtol=1e-5, atol=1e-9)


def test_x_moves_by_eta_along_the_momentum() -> None:
    small = Small(nu=0.1, eta=0.25)
    before, momentum = torch.zeros(N, dtype=torch.float64), torch.zeros(N, dtype=torch.float64)
    for number in range(6):
        small.take(number)
        moved = small.memory["x"] - before
        assert float(moved.norm()) == pytest.approx(0.25, rel=1e-9)
        torch.testing.assert_close(moved, -0.25 * small.memory["m"] / small.memory["m"].norm())
        assert not torch.equal(small.memory["m"], momentum)
        before, momentum = small.memory["x"].clone(), small.memory["m"].clone()


def test_without_a_direction_it_stays() -> None:
    small = Small(nu=1e-300, eta=0.25)
    small.memory.update(x=torch.zeros(N).double(), m=torch.zeros(N).double(), z=torch.zeros(small.layout.size).double(),
                        steps=torch.zeros(1).double())  # fmt: skip
    small.source.climb(small.memory, torch.arange(N), torch.zeros(N).double())
    assert torch.equal(small.memory["x"], torch.zeros(N).double())


def test_beta_0_is_normalised_descent() -> None:
    small = Small(beta=0.0, eta=0.1)
    small.take(0)
    first = small.memory["m"].clone()
    small.take(1)
    step = small.step(1)
    term = small.source.lower(Term("loss", step.x, step.y), step, [torch.arange(N).flip(0)])
    assert not torch.allclose(small.memory["m"], first)
    assert term.y.sum(2).shape == (1, N)
    heavy = Small(beta=0.9, eta=0.1)
    heavy.take(0)
    torch.testing.assert_close(heavy.memory["m"], 0.1 * first)


def test_y_gets_its_gradient_once_a_period() -> None:
    small = Small(every=3)
    for number in range(7):
        grads, losses = small.take(number)
        still = all(not part.any() for part in grads.values())
        assert still == (number % 3 != 0)
        flat = small.flat.clone().requires_grad_()
        [slope] = torch.autograd.grad(small.lower(flat, small.memory["x"].flip(0)), [flat])
        if not still:
            torch.testing.assert_close(small.layout.join(grads)[0], slope)
        assert losses.shape == (1, N)


def test_at_first_y_learns_alone() -> None:
    small = Small(every=3, warm_up=4)
    for number in range(4):
        grads, _ = small.take(number)
        assert any(part.any() for part in grads.values())
    assert not small.memory["x"].any()
    assert not small.memory["z"].any()
    small.take(4)
    assert small.memory["x"].any()


def test_the_weighted_loss_is_its_definition() -> None:
    scores = torch.from_numpy(stream(3, "scores").standard_normal((2, 5, CLASSES)))
    y, weights = (
        torch.arange(10).view(2, 5) % CLASSES,
        torch.rand(2, 5, generator=torch.Generator().manual_seed(1)).double(),
    )
    masses = one_hot(y, CLASSES) * weights.unsqueeze(2)
    losses, slope = WeightedCrossEntropy().slope(scores.mT.clone(), masses)
    for k in range(2):
        own = scores[k].clone().requires_grad_()
        wanted = weights[k] * cross_entropy(own, y[k], reduction="none")
        torch.testing.assert_close(losses[k], wanted.detach())
        torch.testing.assert_close(WeightedCrossEntropy().each(own, masses[k]), wanted)
        torch.testing.assert_close(slope[k], torch.autograd.grad(wanted.mean(), [own])[0])


def test_by_hand_and_by_autograd_it_is_the_same() -> None:
    module = mlp((4,), CLASSES, [6]).double()
    params = {name: part.detach()[None] for name, part in module.named_parameters()}
    direction = {name: torch.ones_like(part) for name, part in params.items()}
    x = torch.from_numpy(stream(3, "x").standard_normal((1, 5, 4)))
    masses = (one_hot(torch.arange(5) % CLASSES, CLASSES) * torch.arange(1, 6).unsqueeze(1)).double()[None]
    one, other = (
        kind(module).hvp(params, x, masses, direction, WeightedCrossEntropy()) for kind in (ClosedForm, Single)
    )
    for name in params:
        torch.testing.assert_close(one[name], other[name])


# In a federation ------------------------------------------------------------------------------------------------------


def test_only_the_model_moves_with_the_period() -> None:
    """Five steps a training, a period of five: one step of y in each training."""
    made, _ = run(borep(every=5), until={"versions": 1})
    lone = made.trainer([LocalTask(0, made.params, 0, 1)])[0].delta
    for steps in (2, 5):
        assert torch.equal(made.trainer([LocalTask(0, made.params, 0, steps)])[0].delta, lone)
    assert not torch.equal(made.trainer([LocalTask(0, made.params, 0, 6)])[0].delta, lone)


@pytest.mark.parametrize(
    "aggregator", [{"fedavg": {"cohort": "all"}}, {"fedbuff": {"concurrency": 3, "goal": 2}}, "fedstale"]
)
@pytest.mark.parametrize("model", ["logistic", {"mlp": {"hidden": [8], "activation": "tanh"}}])
def test_it_is_the_same_under_every_executor(aggregator, model) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = [run(borep(warm_up=6), executor=kind, aggregator=aggregator, model=model)[1]
             for kind in ("inline", "stacked", "null")]  # fmt: skip
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert len({simulation.trace.digest() for simulation in found}) == 1
    for left, right in zip(*(simulation.progress.probed.tables for simulation in found[:2]), strict=True):
        assert all(np.array_equal(left[name], right[name]) for name in left)


def test_unequal_steps_and_sizes_are_a_stack_too() -> None:
    made, _ = run(until={"versions": 1}, fleet={"clients": 7, "devices": "fedscale"})
    tasks = [LocalTask(client, made.params, 1, 3 + client % 3) for client in range(7)]
    together = made.trainer(tasks)
    for task, result in zip(tasks, together, strict=True):
        [alone] = made.trainer([task])
        assert torch.equal(alone.delta, result.delta)
        assert all(torch.equal(alone.kept.own[name], result.kept.own[name]) for name in ("x", "z", "m", "steps"))


def test_weights_stay_with_the_client_from_training_to_training() -> None:
    made, simulation = run()
    for client in range(4):
        own = simulation.kept[client].settled().own
        assert own["steps"].tolist() == [20]
        assert len(own["x"]) == len(made.trainer.parts.indices[client])


def test_it_takes_its_time() -> None:
    made, plain = run(borep(every=4))[0], run({"source": "backpropagation", "probe": None})[0]
    assert list(made.work.seen) == [round(seen * (5 + 1 / 4)) for seen in plain.work.seen]


def test_it_finds_the_noise_and_learns_more() -> None:
    local = {"steps": 20, "batch": 32, "optimizer": {"sgd": {"lr": 0.5}}}
    changes = {"until": {"versions": 15}, "data": {"digits": {"partition": {"noisy": {"share": 0.5, "clean": 40}}}}}
    _, cleaned = run({**local, **borep(warm_up=40, eta=0.5)}, **changes)
    _, plain = run({**local, "source": "backpropagation", "probe": None}, **changes)
    table = cleaned.progress.probed.tables[-1]
    assert table["auc"][-1] > 0.7
    assert table["clean_weight"][-1] > table["noisy_weight"][-1] + 0.2
    assert cleaned.progress.rows[-1]["accuracy"] > plain.progress.rows[-1]["accuracy"] + 0.02


# Data and the probe ---------------------------------------------------------------------------------------------------


def test_so_many_labels_are_wrong_and_the_clean_are_apart() -> None:
    dataset = Digits().load()
    parts = Noisy(share=0.3, clean=15).split(dataset, 6, 2)
    assert parts.clean is not None
    assert parts.labels is not None
    for client in range(6):
        own, seen, clean = parts.indices[client], parts.labels[client], parts.clean[client]
        assert len(clean) == 15
        assert not set(own) & set(clean)
        assert (seen != dataset.y[own].numpy()).sum() == round(0.3 * len(own))
        assert seen.min() >= 0
        assert seen.max() < 10
    every = np.concatenate([*parts.indices, *parts.clean])
    assert np.array_equal(np.sort(every), np.arange(len(dataset)))


def test_the_probe_says_what_weights_tell() -> None:
    dataset = Digits().load()
    parts = Noisy(share=0.3, clean=15).split(dataset, 6, 2)
    assert parts.labels is not None
    clean = parts.labels[1] == dataset.y[parts.indices[1]].numpy()
    probe = Cleaning(dataset, parts)
    assert probe.told(1, np.where(clean, 0.9, 0.2)) == pytest.approx((0.9, 0.2, 1.0))
    assert probe.told(1, np.where(clean, 0.2, 0.9))[2] == 0
    assert probe.told(1, np.full(len(clean), 0.5))[2] == 0.5
    all_clean = Cleaning(dataset, Noisy(share=0.0, clean=15).split(dataset, 6, 2))
    assert isnan(all_clean.told(1, np.full(len(clean), 0.5))[1])


@pytest.mark.parametrize(
    ("local", "changes", "sentence"),
    [({}, {"data": "digits"}, "borep needs clean examples with each client: take partition noisy"),
     ({"optimizer": {"sgd": {"lr": 0.1, "momentum": 0.9}}}, {}, "local.optimizer: borep's models stand still"),
     ({"optimizer": "adam"}, {}, "take sgd without momentum and decay"),
     ({"objective": {"adversarial": {"radius": 0.1, "step": 0.1, "steps": 1}}}, {},
      "local.objective: borep weights the loss"),
     ({"source": "backpropagation"}, {}, "local.probe: cleaning looks at the weights of source borep"),
     ({"private": {"clip": 1.0, "multiplier": 1.0}}, {}, "local.source: with it steps depend on examples")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(local, changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        run(local, **changes)
