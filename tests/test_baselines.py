"""Each baseline against its paper: the rule in plain float64 numpy, and what the paper says the rule is good for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations
from math import prod

import numpy as np
import pytest
import torch
from servers import CLIENTS, SIZE, Driver, census, delta, roster, start, update
from torch import Tensor, nn

from fedsim import aggregators as of
from fedsim.aggregators import Aggregator
from fedsim.aggregators.gaps import Gaps
from fedsim.aggregators.memory import Memory
from fedsim.rng import chance, stream
from fedsim.roster import Roster
from fedsim.selection import Uniform
from fedsim.vector import Layout
from fedsim.work import STATELESS, ClientState, LocalTask

Vector = np.ndarray
EXAMPLES = [5, 10, 10, 20, 5, 15, 5, 10, 10, 10]
STEPS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
RATES = [0.05, 0.05, 0.1, 0.1, 0.1, 0.15, 0.15, 0.2, 0.2, 0.3]
"""So low that in some rounds nobody takes part."""


def book(present: bool = False) -> Roster:
    """Unequal parts, and a round in which everybody takes part, or each with its own chance."""
    takes_part = (lambda client, turn: chance(9, "present", client, turn) < RATES[client]) if present else None
    return Roster(Uniform(seed=1), takes_part, census(examples=EXAMPLES, rates=RATES if present else None))


@dataclass(frozen=True)
class Heard:
    """An update as the paper's formula sees it."""

    client: int
    delta: Vector
    turn: int
    version: int
    """From which it started."""


def play(aggregator: Aggregator, arrivals: int = 40) -> list[list[Heard]]:
    """Let clients answer with random numbers, whoever chance names; what was heard of, step by step."""
    driver, steps, heard = Driver(aggregator, CLIENTS), [], []
    for number in range(arrivals):
        client = sorted(driver.busy)[stream(2, "arrival", number).integers(len(driver.busy))]
        numbers, version = delta("arrival", number), aggregator.version
        heard.append(Heard(client, numbers.double().numpy(), aggregator.roster.turn, driver.busy[client]))
        driver.hear(client, numbers, examples=EXAMPLES[client], steps=STEPS[client], extra=delta("extra", number))
        if aggregator.version > version:
            steps.append(heard)
            heard = []
    return steps


def equals(params: Tensor, expected: Vector, tolerance: float = 2e-6) -> None:
    np.testing.assert_allclose(params.double().numpy(), expected, rtol=tolerance, atol=tolerance)


# The papers' rules ----------------------------------------------------------------------------------------------------
# Each says step by step by how much the model moves.

Moves = Iterator[Vector]
Played = Sequence[Sequence[Heard]]


def weighted_mean(step: Sequence[Heard]) -> Vector:
    return np.average([one.delta for one in step], axis=0, weights=[EXAMPLES[one.client] for one in step])


def mean(step: Sequence[Heard]) -> Vector:
    return np.mean([one.delta for one in step], axis=0)


def fedavg(played: Played) -> Moves:
    yield from map(weighted_mean, played)


def fednova(played: Played, momentum: float = 0.0) -> Moves:
    """The normalising vector of client i has a component for each step: what its gradient comes to in the end."""
    for step in played:
        share = np.array([EXAMPLES[one.client] for one in step]) / sum(EXAMPLES[one.client] for one in step)
        norms = np.array([sum(sum(momentum**i for i in range(n)) for n in range(1, STEPS[one.client] + 1))
                          for one in step])  # fmt: skip
        directions = np.array([one.delta for one in step]) / norms[:, None]
        yield share @ norms * (share @ directions)


def fedavgm(played: Played, momentum: float = 0.9) -> Moves:
    velocity = np.zeros(SIZE)
    for step in played:
        velocity = momentum * velocity + weighted_mean(step)
        yield velocity


def diloco(played: Played) -> Moves:
    """Nesterov's momentum, rewritten for the point at which gradients are taken; the plain mean."""
    velocity = np.zeros(SIZE)
    for step in played:
        velocity = 0.9 * velocity + mean(step)
        yield 0.7 * (mean(step) + 0.9 * velocity)


def fedopt(played: Played, second: Callable[[Vector, Vector], Vector], beta1: float = 0.9) -> Moves:
    m, v, tau = np.zeros(SIZE), np.full(SIZE, 1e-6), 1e-3
    for step in played:
        d = weighted_mean(step)
        m, v = beta1 * m + (1 - beta1) * d, second(v, d**2)
        yield 0.1 * m / (np.sqrt(v) + tau)


fedadagrad = partial(fedopt, second=lambda v, d2: v + d2, beta1=0.0)
fedadam = partial(fedopt, second=lambda v, d2: 0.99 * v + 0.01 * d2)
fedyogi = partial(fedopt, second=lambda v, d2: v - 0.01 * d2 * np.sign(v - d2))


def fedau(played: Played, cutoff: float = np.inf) -> Moves:
    """As the authors' program goes through all clients in every round; rounds without anybody pass too."""
    rounds = {step[0].turn: {one.client: one.delta for one in step} for step in played}
    away, gaps = [0] * CLIENTS, [[] for _ in range(CLIENTS)]
    for turn in range(1, max(rounds) + 1):
        move = np.zeros(SIZE)
        for client in range(CLIENTS):
            if client in rounds.get(turn, {}):
                weight = np.mean(gaps[client]) if gaps[client] else 1.0
                move += EXAMPLES[client] / sum(EXAMPLES) * weight * rounds[turn][client]
                gaps[client].append(away[client] + 1)
                away[client] = 0
            else:
                away[client] += 1
                if away[client] >= cutoff:
                    gaps[client].append(away[client])
                    away[client] = 0
        yield move


def known(played: Played) -> Moves:
    for step in played:
        yield sum(EXAMPLES[one.client] / sum(EXAMPLES) / RATES[one.client] * one.delta for one in step)


def calibrated(played: Played) -> Moves:
    """FedVARP and CA2FL: who is twice in a buffer has twice what is new since the last step."""
    last = np.zeros((CLIENTS, SIZE))
    for step in played:
        yield np.mean([one.delta - last[one.client] for one in step], axis=0) + last.mean(0)
        for one in step:
            last[one.client] = one.delta


def remembered(played: Played) -> Moves:
    """MIFA and ACE."""
    last = np.zeros((CLIENTS, SIZE))
    for step in played:
        for one in step:
            last[one.client] = one.delta
        yield last.mean(0)


def fadas(played: Played, lr: float = 0.02, patience: float = 1) -> Moves:
    m = v = peak = np.zeros(SIZE)
    for version, step in enumerate(played):
        d, delay = mean(step), max(version - one.version for one in step)
        m, v = 0.9 * m + 0.1 * d, 0.99 * v + 0.01 * d**2
        peak = np.maximum(peak, v)
        yield (lr if delay <= patience else min(lr, 1 / delay)) * m / (np.sqrt(peak) + 1e-8)


RULES: dict[str, tuple[Callable[[], Aggregator], Callable[[Played], Moves]]] = {
    "fedavg": (lambda: of.FedAvg(start(), book(), cohort=4), fedavg),
    "fedprox": (lambda: of.FedProx(start(), book(), cohort=4, mu=0.3), fedavg),
    "fednova": (lambda: of.FedNova(start(), book(), cohort=4), fednova),
    "fednova momentum": (
        lambda: of.FedNova(start(), book(), cohort=4, local_momentum=0.9),
        partial(fednova, momentum=0.9),
    ),
    "scaffold": (lambda: of.SCAFFOLD(start(), book(), cohort=4), lambda played: map(mean, played)),
    "fedavgm": (lambda: of.FedAvgM(start(), book(), cohort=4), fedavgm),
    "diloco": (lambda: of.DiLoCo(start(), book(), cohort=4), diloco),
    "fedadagrad": (lambda: of.FedAdagrad(start(), book(), cohort=4), fedadagrad),
    "fedadam": (lambda: of.FedAdam(start(), book(), cohort=4), fedadam),
    "fedyogi": (lambda: of.FedYogi(start(), book(), cohort=4), fedyogi),
    "fedau": (lambda: of.FedAU(start(), book(present=True)), fedau),
    "fedau cutoff": (lambda: of.FedAU(start(), book(present=True), cutoff=3), partial(fedau, cutoff=3)),
    "fedau cohort": (lambda: of.FedAU(start(), book(), cohort=2, cutoff=4), partial(fedau, cutoff=4)),
    "fedau known": (lambda: of.FedAU(start(), book(present=True), known_participation=True), known),
    "fedvarp": (lambda: of.FedVARP(start(), book(), cohort=4), calibrated),
    "fedvarp present": (lambda: of.FedVARP(start(), book(present=True), cohort="all"), calibrated),
    "mifa": (lambda: of.MIFA(start(), book(), cohort=4), remembered),
    "ca2fl": (lambda: of.CA2FL(start(), book(), concurrency=6, goal=4), calibrated),
    "ace": (lambda: of.ACE(start(), book(), concurrency=4), remembered),
    "fadas": (lambda: of.FADAS(start(), book(), concurrency=7, goal=2, lr=0.02), fadas),
    "fadas rash": (
        lambda: of.FADAS(start(), book(), concurrency=7, goal=2, lr=0.7, patience=10**9),
        partial(fadas, lr=0.7, patience=np.inf),
    ),
    "fadas careful": (lambda: of.FADAS(start(), book(), concurrency=7, goal=2, lr=0.7), partial(fadas, lr=0.7)),
}


@pytest.mark.parametrize("name", RULES)
def test_many_steps_are_the_papers_rule(name) -> None:
    make, rule = RULES[name]
    aggregator = make()
    played = play(aggregator)
    assert len(played) == aggregator.version > 3
    equals(aggregator.params, start().double().numpy() + sum(rule(played)), tolerance=1e-5)


# Clients with quadratic losses ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quadratics:
    """Client i minimises the sum of curvature_i (x - centre_i)^2 / 2 by some steps of gradient descent."""

    curvature: Tensor
    centre: Tensor
    steps: tuple[int, ...]
    lr: float = 0.05

    @classmethod
    def drawn(cls, *steps: int, lr: float = 0.05) -> Quadratics:
        draw = stream(4, "quadratics")
        curvature, centre = draw.uniform(0.5, 4, (len(steps), SIZE)), draw.standard_normal((len(steps), SIZE))
        return cls(torch.from_numpy(curvature), torch.from_numpy(centre), steps, lr)

    @property
    def optimum(self) -> Tensor:
        """Of the mean loss."""
        return (self.curvature * self.centre).sum(0) / self.curvature.sum(0)

    def gradient(self, client: int, x: Tensor) -> Tensor:
        return self.curvature[client] * (x - self.centre[client])

    def roster(self) -> Roster:
        return roster(census(len(self.steps)))

    def train(self, aggregator: Aggregator, rounds: int) -> dict[int, Tensor]:
        """So many rounds; what each client has kept at the end."""
        driver, kept = Driver(aggregator, len(self.steps)), {}
        layout = Layout.of(nn.Linear(SIZE, 1, bias=False))
        for _ in range(rounds):
            params, sent, drift = aggregator.params, aggregator.sent, aggregator.drift
            for client in sorted(driver.busy):
                task = LocalTask(client, params, 0, self.steps[client], sent, kept.get(client, STATELESS))
                correction, x, left = drift and drift.correction([task], layout), params.clone(), None
                for _ in range(task.steps):
                    grad = self.gradient(client, x)
                    if correction:
                        correction.add(grads := layout.unflatten(grad[None]), layout.unflatten(x[None]))
                        grad = layout.join(grads)[0]
                    x = x - self.lr * grad
                if correction and (left := correction.finish([task])):
                    kept[client] = ClientState(left[0][0])
                driver.hear(client, x - params, steps=task.steps, extra=left[1][0] if left else None)
        return kept

    def fixed_point(self, make: Callable[..., Aggregator]) -> Tensor:
        """Where a rule without memory stays: one round moves by s - r x, element by element."""
        moves = []
        for at in (0.0, 1.0):
            aggregator = make(torch.full((SIZE,), at, dtype=torch.float64), self.roster())
            self.train(aggregator, 1)
            moves.append(aggregator.params - at)
        return moves[0] / (moves[0] - moves[1])


def zero() -> Tensor:
    return torch.zeros(SIZE, dtype=torch.float64)


def off(x: Tensor, optimum: Tensor) -> float:
    return float((x - optimum).abs().max())


# SCAFFOLD -------------------------------------------------------------------------------------------------------------


def test_scaffolds_variate_is_the_mean_of_the_clients_in_every_round() -> None:
    world = Quadratics.drawn(1, 2, 3, 4, 5, 6)
    for cohort in ("all", 2):
        for rounds in range(1, 8):
            aggregator = of.SCAFFOLD(zero(), world.roster(), cohort=cohort)
            kept = world.train(aggregator, rounds)
            assert off(aggregator.variate, sum(state.drift for state in kept.values()) / len(world.steps)) < 1e-15
            assert float(aggregator.variate.norm()) > 0.1


def test_scaffold_of_everybody_with_one_step_is_gradient_descent() -> None:
    world = Quadratics.drawn(1, 1, 1)
    aggregator, x = of.SCAFFOLD(zero(), world.roster(), cohort="all"), zero()
    world.train(aggregator, 20)
    for _ in range(20):
        x = x - world.lr * sum(world.gradient(client, x) for client in range(3)) / 3
    assert off(aggregator.params, x) < 1e-14


@pytest.mark.parametrize("cohort", ["all", 2])
def test_scaffold_ends_at_the_optimum_where_fedavg_does_not(cohort) -> None:
    world = Quadratics.drawn(10, 10, 10, 10)
    aggregator = of.SCAFFOLD(zero(), world.roster(), cohort=cohort)
    world.train(aggregator, 400)
    assert off(aggregator.params, world.optimum) < 1e-9
    assert off(world.fixed_point(partial(of.FedAvg, cohort="all")), world.optimum) > 0.05


def test_scaffold_sends_the_variate_of_the_present_version() -> None:
    aggregator = of.SCAFFOLD(start(), book(), cohort=4)
    play(aggregator, 0)
    assert torch.equal(aggregator.sent, torch.zeros(SIZE))
    aggregator = of.SCAFFOLD(start(), book(), cohort=4, lr=0.5)
    play(aggregator, 8)
    equals(aggregator.sent, sum(delta("extra", number).double().numpy() for number in range(8)) / CLIENTS)


# FedProx, FedNova -----------------------------------------------------------------------------------------------------


def test_fedprox_goes_from_fedavg_to_standing_still_as_mu_grows() -> None:
    world = Quadratics.drawn(5, 5, 5)
    ends = {}
    for mu in (0.0, 1e-9, 1.0, 10.0, 19.9):  # gradient descent with lr 0.05 is stable for curvatures below 40
        aggregator = of.FedProx(zero(), world.roster(), cohort="all", mu=mu)
        world.train(aggregator, 1)
        ends[mu] = aggregator.params
    plain = of.FedAvg(zero(), world.roster(), cohort="all")
    world.train(plain, 1)
    assert torch.equal(ends[0.0], plain.params)
    assert 0 < off(ends[1e-9], ends[0.0]) < 1e-8
    lengths = [float(end.norm()) for end in ends.values()]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < 0.35 * lengths[0]


def test_fednovas_optimum_does_not_depend_on_how_many_steps_clients_take() -> None:
    """To first order in the learning rate; FedAvg's optimum is wrong by as much however small that is."""
    wrong = {}
    for lr in (1e-4, 1e-5):
        world = Quadratics.drawn(1, 3, 9, 27, lr=lr)
        rules = {"fednova": of.FedNova, "fedavg": of.FedAvg}
        wrong[lr] = {name: off(world.fixed_point(partial(rule, cohort="all")), world.optimum)
                     for name, rule in rules.items()}  # fmt: skip
    assert wrong[1e-5]["fednova"] < 1e-3
    assert wrong[1e-5]["fednova"] == pytest.approx(wrong[1e-4]["fednova"] / 10, rel=0.1)
    assert wrong[1e-5]["fedavg"] == pytest.approx(wrong[1e-4]["fedavg"], rel=0.1)
    assert wrong[1e-5]["fedavg"] > 0.1


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fednova_with_equal_steps_is_fedavg(momentum) -> None:
    same, plain = of.FedNova(zero(), roster(), local_momentum=momentum), of.FedAvg(zero(), roster())
    for aggregator in (same, plain):
        driver = Driver(aggregator, CLIENTS)
        for turn in range(3):
            driver.turn({client: delta("equal", turn, client).double() for client in driver.busy}, steps=7)
    assert off(same.params, plain.params) < 1e-15


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_fednovas_number_of_steps_is_how_far_sgd_goes_along_a_constant_gradient(momentum, steps) -> None:
    point = torch.zeros(1, dtype=torch.float64)
    optimizer = torch.optim.SGD([point], lr=1.0, momentum=momentum)
    for _ in range(steps):
        point.grad = -torch.ones_like(point)
        optimizer.step()
    aggregator = of.FedNova(start(), roster(), local_momentum=momentum)
    assert aggregator.effective(steps) == pytest.approx(point.item(), rel=1e-12)


# A server with an optimizer -------------------------------------------------------------------------------------------


def constant(aggregator: Aggregator, rounds: int, direction: Tensor) -> list[Tensor]:
    """The moves of a server that is always told to go the same way."""
    driver, moves = Driver(aggregator, CLIENTS), []
    for _ in range(rounds):
        before = aggregator.params
        driver.turn(dict.fromkeys(driver.busy, direction))
        moves.append(aggregator.params - before)
    return moves


def test_fedavgm_without_momentum_is_fedavg_and_with_it_gathers_speed() -> None:
    still, plain = of.FedAvgM(start(), book(), momentum=0.0), of.FedAvg(start(), book())
    play(still), play(plain)
    assert torch.equal(still.params, plain.params)
    moves = constant(of.FedAvgM(zero(), book(), momentum=0.8), 200, torch.ones(SIZE, dtype=torch.float64))
    equals(moves[0], np.ones(SIZE))
    equals(moves[-1], np.full(SIZE, 1 / (1 - 0.8)), 1e-12)


def test_diloco_is_torchs_sgd_with_nesterov_on_the_negative_direction() -> None:
    aggregator, point = of.DiLoCo(start(), book(), cohort=4), start().clone()
    optimizer = torch.optim.SGD([point], lr=0.7, momentum=0.9, nesterov=True)
    for step in play(aggregator):
        point.grad = -torch.from_numpy(mean(step)).float()
        optimizer.step()
    torch.testing.assert_close(aggregator.params, point, rtol=1e-6, atol=1e-6)


def test_fedadagrad_slows_down_with_the_root_of_time() -> None:
    moves = constant(of.FedAdagrad(zero(), book(), tau=1e-6), 100, torch.full((SIZE,), 3.0, dtype=torch.float64))
    for turn in (1, 4, 25, 100):
        equals(moves[turn - 1], np.full(SIZE, 0.1 / turn**0.5), 1e-5)


def test_tau_is_how_much_fedopt_adapts() -> None:
    """Tiny: every element moves as far as any other. Huge: each as its direction says, over tau + sqrt(v)."""
    direction = torch.tensor([1e-3, 1e-2, 0.1, 1.0, 10.0], dtype=torch.float64)
    for rule, decay in ((of.FedAdam, 0.99), (of.FedYogi, 1.0)):
        [*_, last] = constant(rule(zero(), book(), cohort=2, tau=1e-9), 800, direction)
        equals(last, np.full(SIZE, 0.1), 1e-3)
        [*_, last] = constant(rule(zero(), book(), cohort=2, tau=1e6, lr=1e6), 200, direction)
        equals(last / direction, np.full(SIZE, 1 / (1 + decay**100)), 1e-6)


def test_beta1_is_how_long_fedopt_remembers_and_beta2_zero_leaves_the_sign() -> None:
    [first, *_] = constant(of.FedAdam(zero(), book(), beta1=0.0, beta2=0.0, tau=1e-12), 1, delta("sign").double())
    equals(first, 0.1 * np.sign(delta("sign").numpy()))
    [slow, *_] = constant(of.FedAdam(zero(), book(), beta1=0.75, beta2=0.0, tau=1e-12), 1, delta("sign").double())
    equals(slow, 0.25 * first.numpy())


def test_fedyogi_forgets_by_steps_where_fedadam_forgets_by_factors() -> None:
    """After a large direction came tiny ones: Adam's v decays exponentially, Yogi's by no more than their squares."""
    rules = {rule: rule(zero(), book(), beta1=0.0) for rule in (of.FedAdam, of.FedYogi)}
    for aggregator in rules.values():
        driver = Driver(aggregator, CLIENTS)
        for size in [1.0] + [1e-3] * 300:
            driver.turn(dict.fromkeys(driver.busy, torch.full((SIZE,), size, dtype=torch.float64)))
    first = 1e-6 + 0.01 * (1 - 1e-6)
    decayed = 0.99**301 * 1e-6 + 0.01 * 0.99**300 + 1e-6 * (1 - 0.99**300)
    equals(rules[of.FedAdam].second, np.full(SIZE, decayed), 1e-9)
    assert off(rules[of.FedYogi].second, torch.full((SIZE,), 1e-6 + 0.01 - 300 * 1e-8, dtype=torch.float64)) < 1e-12
    assert float(rules[of.FedAdam].second[0]) < 0.1 * first < float(rules[of.FedYogi].second[0])


# Memories of last updates ---------------------------------------------------------------------------------------------


def whole(make: Callable[[], Aggregator]) -> Tensor:
    """Five rounds in which everybody answers once."""
    aggregator = make()
    driver = Driver(aggregator, CLIENTS)
    for turn in range(5):
        driver.turn({client: delta("whole", turn, client) for client in range(CLIENTS)})
    assert aggregator.version == 5
    return aggregator.params


@pytest.mark.parametrize(
    "make",
    [
        lambda: of.FedVARP(start(), book(), cohort="all"),
        lambda: of.MIFA(start(), book(), cohort="all"),
        lambda: of.FedAU(start(), book(), importance="uniform"),
        lambda: of.CA2FL(start(), book(), concurrency="all", goal=CLIENTS, wait=True),
    ],
    ids=["fedvarp", "mifa", "fedau", "ca2fl"],
)
def test_with_everybody_there_it_is_fedavg(make) -> None:
    plain = whole(lambda: of.FedAvg(start(), book(), cohort="all", weights="uniform"))
    equals(whole(make), plain.double().numpy())


def subsets(clients: int) -> Iterator[tuple[int, ...]]:
    return chain.from_iterable(combinations(range(clients), size) for size in range(clients + 1))


def updates(who: Sequence[int], *name: object) -> list:
    return [update(client, 0, delta(*name, client).double()) for client in who]


def test_fedvarp_is_unbiased_where_everybody_takes_part_equally_often() -> None:
    """Of 6 clients 3 are asked: the mean over all 20 choices is the mean update, whatever is remembered."""
    moves = []
    for who in combinations(range(6), 3):
        aggregator = of.FedVARP(zero(), roster(census(6)), cohort=3)
        aggregator.direction(updates([0, 2, 3, 5], "past"))
        moves.append(aggregator.direction(updates(who, "present")).numpy())
    equals(torch.from_numpy(np.mean(moves, axis=0)), np.mean([delta("present", c).numpy() for c in range(6)], axis=0))
    assert np.std(moves) > 0.1


def test_fedvarp_is_biased_where_some_take_part_more_often() -> None:
    rates, total = [0.9, 0.9, 0.1], np.zeros(SIZE)
    for who in subsets(3):
        if who:
            aggregator = of.FedVARP(zero(), roster(census(3)), cohort="all")
            aggregator.direction(updates(range(3), "past"))
            total += likelihood(rates, who) * aggregator.direction(updates(who, "present")).numpy()
    assert np.abs(total - np.mean([delta("present", client).numpy() for client in range(3)], axis=0)).max() > 0.1


def likelihood(rates: Sequence[float], who: Sequence[int]) -> float:
    return prod(rate if client in who else 1 - rate for client, rate in enumerate(rates))


def test_ace_is_mifa_without_rounds() -> None:
    ace, mifa = of.ACE(zero(), book(), concurrency=1), of.MIFA(zero(), book(), cohort=1)
    play(ace), play(mifa)
    assert ace.version == mifa.version == 40
    assert torch.equal(ace.params, mifa.params)


def test_rows_of_nobody_are_zero_so_that_a_saved_state_repeats(monkeypatch) -> None:
    monkeypatch.setattr("fedsim.aggregators.memory.BLOCK_BYTES", 4 * SIZE * 64)
    for _ in range(20):
        torch.full((64, SIZE), float("nan"))  # what is given back to the allocator
        memory = Memory(start())
        memory.remember(3, delta("row"))
        assert torch.equal(memory.blocks[0].sum(0), delta("row"))


# Weights for participation --------------------------------------------------------------------------------------------


def test_known_participation_makes_a_round_unbiased() -> None:
    rates, examples, total = [0.2, 0.5, 0.9, 1.0], [10, 20, 30, 40], np.zeros(SIZE)
    aggregator = of.FedAU(zero(), roster(census(4, examples, rates)), known_participation=True)
    for who in subsets(4):
        if who:
            total += likelihood(rates, who) * aggregator.direction(updates(who, "now")).numpy()
    equals(torch.from_numpy(total), sum(n / 100 * delta("now", c).numpy() for c, n in enumerate(examples)))


def test_known_participation_is_refused_where_the_server_changes_it() -> None:
    for change in ({"cohort": 3}, {"goal": 3}, {"deadline": 1000}):
        with pytest.raises(ValueError, match="participation is known only where"):
            of.FedAU(start(), book(), known_participation=True, **change)


@pytest.mark.parametrize("cutoff", [None, 1, 2, 3, 7, 50])
@pytest.mark.parametrize("rate", [0.02, 0.3, 0.8, 1.0])
def test_gaps_are_the_authors_recurrence(cutoff, rate) -> None:
    gaps, ended, away = Gaps(cutoff), [], 0
    for turn in range(1, 400):
        assert gaps.mean(7, turn) == pytest.approx(np.mean(ended) if ended else 1.0, rel=1e-12)
        away += 1
        here = chance(1, "gaps", turn) < rate
        if here or (cutoff and away >= cutoff):
            ended.append(away)
            away = 0
        if here:
            gaps.heard(7, turn)
            assert gaps.mean(7, turn) == pytest.approx(np.mean(ended), rel=1e-12)


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_gaps_tend_to_the_inverse_of_participation(rate) -> None:
    gaps = Gaps()
    for turn in range(1, 20_001):
        if chance(2, "bernoulli", turn) < rate:
            gaps.heard(0, turn)
    assert gaps.mean(0, 20_001) == pytest.approx(1 / rate, rel=0.03)


# FADAS ----------------------------------------------------------------------------------------------------------------


def test_fadas_goes_slower_the_staler_the_buffer() -> None:
    aggregator = of.FADAS(start(), book(), lr=0.5, patience=3)
    rates = []
    for aggregator.staleness in (0, 3, 4, 10):
        rates.append(aggregator.rate())
    assert rates == [0.5, 0.5, 0.25, 0.1]
    assert replace(aggregator, patience=10**9).rate() == 0.5


def test_fadas_never_forgets_the_largest_square() -> None:
    aggregator = of.FADAS(zero(), book(), concurrency=1, goal=1, lr=1.0)
    driver = Driver(aggregator, CLIENTS)
    for size in (100.0, *[1e-3] * 50):
        [client] = driver.busy
        driver.hear(client, torch.full((SIZE,), size, dtype=torch.float64))
    equals(aggregator.largest, np.full(SIZE, 0.01 * 100**2), 1e-12)
    assert float(aggregator.second[0]) < 0.7 * float(aggregator.largest[0])
