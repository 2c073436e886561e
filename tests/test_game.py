"""Two players of one model: each loss moves its own parameters, and what simultaneous steps drift is cancelled."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from networks import K, numbers
from torch import Tensor, nn
from torch.func import functional_call
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.errors import ScenarioError
from fedsim.exams.generated import Generated
from fedsim.gradients import Single, Vmapped
from fedsim.losses import Derived
from fedsim.models.gan import Gan, gan
from fedsim.objectives import Players, Step
from fedsim.objectives.term import Term
from fedsim.optimizers import sgd
from fedsim.sources import Game
from fedsim.vector import Layout
from fedsim.work import LocalTask

NEAR = {"rtol": 1e-7, "atol": 1e-9}
LR, LATENT, BATCH = 0.2, 3, 4


# By hand: a bilinear game, one's loss is a b, the other's -a b --------------------------------------------------------


class Bilinear(nn.Module):
    """Scores (B, 1): a b."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Module(), nn.Module()
        self.one.register_parameter("a", nn.Parameter(torch.tensor([1.0], dtype=torch.float64)))
        self.two.register_parameter("b", nn.Parameter(torch.tensor([0.5], dtype=torch.float64)))

    def forward(self, x: Tensor) -> Tensor:
        return (self.one.a * self.two.b).expand(len(x), 1)


class Signed(Derived):
    """The score, or minus it."""

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        return self.sign * scores[:, 0]


def step_at(module: nn.Module, source, params: dict[str, Tensor], x: Tensor) -> Step:
    clients = len(next(iter(params.values())))
    tasks = [LocalTask(k, torch.zeros(0), 0, 5) for k in range(clients)]
    y = torch.tensor([1.0, 0.0], dtype=x.dtype).expand(clients, x.shape[1], 2)
    return Step(source, params, x, y, None, tasks, 0, 1, Layout.of(module), torch.zeros(x.shape[:2], dtype=torch.int64),
                lambda rows: (x[0][rows], y[0][rows]), [{}] * clients)  # fmt: skip


def walk(steps: int, **multipliers: float) -> list[float]:
    """a^2 + b^2 along simultaneous steps of the bilinear game."""
    module = Bilinear()
    params = {name: part.detach().unsqueeze(0) for name, part in module.named_parameters()}
    source, found = Game(**multipliers, optimizer=sgd(lr=LR)), []
    for _ in range(steps):
        x = torch.zeros(1, 2, 1).double()
        terms = [Term("one", x, x, Signed(1.0)), Term("two", x, x, Signed(-1.0))]
        grads, _ = source.gradients(step_at(module, Single(module), params, x), terms)
        params = {name: part - LR * grads[name] for name, part in params.items()}
        found.append(float(sum(part.square().sum() for part in params.values())))
    return found


def test_simultaneous_steps_spiral_away_and_cancelling_the_interaction_stops_them() -> None:
    """By hand: each step multiplies a^2 + b^2 by 1 + lr^2; with the interaction cancelled by 1 + lr^4 / 4."""
    plain, cancelled, doubled = walk(20), walk(20, interaction=-1.0), walk(20, interaction=1.0)
    rates = [np.array(each[1:]) / np.array(each[:-1]) for each in (plain, cancelled, doubled)]
    np.testing.assert_allclose(rates[0], 1 + LR**2, rtol=1e-9)
    np.testing.assert_allclose(rates[1], (1 - LR**2 / 2) ** 2 + LR**2, rtol=1e-9)
    np.testing.assert_allclose(rates[2], (1 + LR**2 / 2) ** 2 + LR**2, rtol=1e-9)
    np.testing.assert_allclose(walk(20, own=-1.0), plain, rtol=1e-12)  # neither loss is curved in its own player


# A generator and a discriminator --------------------------------------------------------------------------------------


def small() -> tuple[Gan, dict[str, Tensor], Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = Gan(LATENT, [5]).double()
    params = {name: torch.stack([part.detach() * (1 + k / 5) for k in range(K)])
              for name, part in module.named_parameters()}  # fmt: skip
    return module, params, numbers(K, BATCH, 64 + LATENT).double().tanh()


def losses(module: Gan, own: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """The definition: least squares."""
    scores = functional_call(module, own, (x,))
    return {
        "discriminator": ((scores[:, 0] - 1).square() + scores[:, 1].square()).mean() / 2,
        "generator": (scores[:, 1] - 1).square().mean() / 2,
    }


def defined(module: Gan, params: dict[str, Tensor], x: Tensor, k: int, own: float, interaction: float) -> Tensor:
    """Gradients (P,) of one client by autograd twice, as the paper writes the regularisers."""
    leaves = {name: part[k].clone().requires_grad_() for name, part in params.items()}
    each = losses(module, leaves, x[k])
    ours = {player: [name for name in leaves if name.startswith(player)] for player in each}

    def slopes(loss: Tensor, player: str) -> list[Tensor]:
        return torch.autograd.grad(loss, [leaves[name] for name in ours[player]], create_graph=True)

    found = {}
    for player, loss in each.items():
        [other] = set(each) - {player}
        selfish = sum(part.square().sum() for part in slopes(loss, player)) / 2
        theirs = [part.detach() for part in slopes(each[other], other)]
        between = sum((part * held).sum() for part, held in zip(slopes(loss, other), theirs, strict=True))
        whole = loss + LR / 2 * (own * selfish + interaction * between)
        grads = torch.autograd.grad(
            whole, [leaves[name] for name in ours[player]], retain_graph=True, allow_unused=True
        )
        found |= dict(zip(ours[player], grads, strict=True))
    return torch.cat([found[name].flatten() for name in leaves])


@pytest.mark.parametrize(("own", "interaction"), [(0.0, 0.0), (0.0, -1.0), (0.7, 0.0), (0.3, -1.0)])
def test_each_player_has_the_gradient_of_its_own_loss_and_regularisers(own, interaction) -> None:
    module, params, x = small()
    expected = torch.stack([defined(module, params, x, k, own, interaction) for k in range(K)])
    source = Game(own=own, interaction=interaction, optimizer=sgd(lr=LR))
    step = step_at(module, Vmapped(module), params, x)
    found, told = source.gradients(step, Players().terms(step))
    torch.testing.assert_close(step.layout.join(found), expected, **NEAR)
    for k in range(K):
        alone = {name: part[k : k + 1] for name, part in params.items()}
        step = step_at(module, Single(module), alone, x[k : k + 1])
        lone, _ = source.gradients(step, Players().terms(step))
        torch.testing.assert_close(step.layout.join(lone)[0], expected[k], **NEAR)
        own_loss = losses(module, {name: part[k] for name, part in params.items()}, x[k])["discriminator"]
        assert float(told[k].mean()) == pytest.approx(float(own_loss))


@pytest.mark.parametrize(("multipliers", "price"), [((0, 0), 2), ((0, -1), 2 * 11 / 3), ((1, -1), 2 * 19 / 3)])
def test_curvature_has_its_price(multipliers, price) -> None:
    own, interaction = multipliers
    assert Game(own=own, interaction=interaction, optimizer=sgd(lr=LR)).effort(2) == pytest.approx(price)


def test_what_is_generated_is_compared_with_digits() -> None:
    """A generator of one picture has no spread; one that is dark everywhere is |mean|^2 + the digits' variance away."""
    from fedsim.data.generative import SeededDigits

    data, module = SeededDigits(seed=1, draws=1, latent=LATENT).load(), gan((64 + LATENT,), 2, [5])
    named = {name: torch.zeros_like(part) for name, part in module.named_parameters()}
    found = Generated(seed=0, samples=50).grade(module, named, data)
    digits = data.x_test[:, :64].double().numpy()
    assert found["spread"] == 0
    assert found["frechet"] == pytest.approx(np.square(digits.mean(0)).sum() + digits.var(0, ddof=1).sum(), rel=1e-6)


# In a scenario --------------------------------------------------------------------------------------------------------

PLAYED = {
    "seed": 2,
    "until": {"versions": 4},
    "data": {"seeded_digits": {"draws": 2, "latent": 4}},
    "model": {"gan": {"hidden": [8]}},
    "fleet": {"clients": 4, "devices": "fedscale"},
    "local": {"steps": 3, "batch": 16, "optimizer": {"sgd": {"lr": 0.1}}, "objective": "players",
              "source": {"game": {"interaction": -1}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "1 h", "exam": "generated"},
}  # fmt: skip


def assembled(**changes) -> experiment.Experiment:
    [arm] = scenario.read(PLAYED | changes)
    return experiment.assemble(arm)


def test_company_does_not_count() -> None:
    made = assembled()
    tasks = [LocalTask(client, made.params, 1, steps) for client, steps in ((0, 3), (2, 1), (3, 3))]
    state = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    for task, result in zip(tasks, made.trainer(tasks), strict=True):
        [alone] = made.trainer([task])
        torch.testing.assert_close(alone.delta, result.delta, rtol=1e-5, atol=1e-7)
        moved = made.layout.unflatten(result.delta)
        assert all(bool(part.any()) for part in moved.values()), "both players have moved"
    assert random.getstate() == state[0]
    assert np.array_equal(np.random.get_state()[1], state[1])
    assert torch.equal(torch.random.get_rng_state(), state[2])


@pytest.mark.parametrize("aggregator", [{"fedavg": {"cohort": "all"}}, {"fedbuff": {"concurrency": 4, "goal": 2}}])
def test_any_server_runs_it_whatever_the_executor(aggregator) -> None:
    found = []
    for kind in ("inline", "stacked"):
        simulation = assembled(aggregator=aggregator, executor=kind).simulation(Recording())
        simulation.run()
        found.append(simulation)
    torch.testing.assert_close(found[0].aggregator.params, found[1].aggregator.params, rtol=1e-5, atol=1e-7)
    assert {"frechet", "spread", "loss"} <= set(found[0].progress.rows[-1])


LOCAL = PLAYED["local"]
ALONE = {**LOCAL, "objective": None, "source": "backpropagation"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"local": {**LOCAL, "source": "sam"}}, "local.source: game and the objective players go together"),
     ({"local": {**LOCAL, "objective": None}}, "game and the objective players go together"),
     ({"local": {**LOCAL, "optimizer": "adam"}}, "take optimizer sgd, without momentum"),
     ({"model": {"mlp": {"hidden": [4]}}, "evaluate": {"every": "1 h"}}, "players need a model of two, such as gan"),
     ({"data": "digits"}, "gan is for seeded_digits"),
     ({"model": {"mlp": {"hidden": [4]}}, "local": ALONE}, "generated digits are of a gan")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        assembled(**changes)
