"""FedStale: its formula, its two ends bit for bit, its mean and variance, and the memory that it needs."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from servers import SIZE, Driver, census, delta, start, update

from fedsim.aggregators import FedAU, FedStale, FedVARP
from fedsim.rng import chance, stream
from fedsim.roster import Roster
from fedsim.selection import Uniform

EXAMPLES = [10, 40, 30, 20]
RATES = [1.0, 0.5, 0.25, 0.1]
SHARES = np.array(EXAMPLES) / sum(EXAMPLES)


def taking_part(rates=RATES, seed=0) -> Roster:
    """Four clients of unequal importance, each in a round with its own chance."""
    present = lambda client, turn: chance(seed, "present", client, turn) < rates[client]  # noqa: E731
    return Roster(Uniform(1), present, census(4, EXAMPLES, rates))


def fedstale(beta=0.5, known=True, **options) -> FedStale:
    return FedStale(start(), taking_part(), beta=beta, known_participation=known, **options)


def play(aggregator, rounds: int) -> torch.Tensor:
    driver = Driver(aggregator, 4)
    for number in range(rounds):
        driver.turn({client: delta(client, number) for client in driver.busy})
    return aggregator.params


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_every_step_follows_the_formula(beta) -> None:
    """v = beta sum_i a_i h_i + sum_S a_i / p_i (Delta_i - beta h_i); then h_i <- Delta_i; nobody: no step."""
    aggregator = fedstale(beta, lr=0.7)
    driver, last, model = Driver(aggregator, 4), np.zeros((4, SIZE)), start().double().numpy()
    for number in range(40):
        present = sorted(driver.busy)
        fresh = {client: delta(client, number) for client in present}
        step = beta * SHARES @ last
        for client in present:
            step = step + SHARES[client] / RATES[client] * (fresh[client].double().numpy() - beta * last[client])
        model = model + 0.7 * step
        driver.turn(fresh)
        for client in present:
            last[client] = fresh[client]
        assert np.allclose(aggregator.params, model, rtol=1e-5, atol=1e-5)
        assert np.allclose(aggregator.last.sum, SHARES @ last, rtol=0, atol=1e-6)
        assert all(np.array_equal(aggregator.last[client], last[client]) for client in range(4))


@pytest.mark.parametrize("known", [True, False], ids=["known", "estimated"])
def test_beta_zero_is_fedavg_by_inverse_participation_bit_for_bit(known) -> None:
    other = FedAU(start(), taking_part(), known_participation=known)
    assert torch.equal(play(fedstale(0.0, known), 60), play(other, 60))


@pytest.mark.parametrize("known", [True, False], ids=["known", "estimated"])
def test_beta_one_is_fedvarp_by_inverse_participation_bit_for_bit(known) -> None:
    """Written anew: the sum of news over p, on top of everything remembered, in float64."""
    aggregator = fedstale(1.0, known)
    twin = FedAU(start(), taking_part(), known_participation=known)  # has the weights, and no memory
    driver, model = Driver(aggregator, 4), start()
    memory, total = torch.zeros(4, SIZE), torch.zeros(SIZE, dtype=torch.float64)
    for number in range(60):
        present = sorted(driver.busy)
        fresh = {client: delta(client, number) for client in present}
        twin.roster.turn = aggregator.roster.turn
        weights = twin.inverse_weights([update(client, 0, fresh[client]) for client in present])
        step = total.clone()
        for client, weight in zip(present, weights, strict=True):
            step.add_(fresh[client].double() - memory[client].double(), alpha=weight)
        for client in present:
            total.add_(fresh[client].double() - memory[client], alpha=SHARES[client])
            memory[client] = fresh[client]
        model = model + step.float()
        driver.turn(fresh)
        assert torch.equal(aggregator.params, model)


def test_it_is_the_convex_combination_of_its_ends() -> None:
    """One step from the same memory is affine in beta."""
    steps = {}
    for beta in (0.0, 0.25, 1.0):
        aggregator = fedstale(beta)
        for client in range(4):
            aggregator.last.remember(client, delta(client, "old"), float(SHARES[client]))
        aggregator.roster.turn = 1
        steps[beta] = aggregator.direction([update(client, 0, delta(client, "new")) for client in (0, 2)])
    assert torch.allclose(steps[0.25], 0.75 * steps[0.0] + 0.25 * steps[1.0], rtol=1e-6, atol=1e-6)


def test_with_everybody_there_beta_does_not_matter() -> None:
    """It is FedAvg with full participation."""
    whole = [1.0] * 4
    results = []
    for beta in (0.0, 0.4, 1.0):
        aggregator = FedStale(start(), taking_part(whole), beta=beta, known_participation=True)
        results.append(play(aggregator, 30))
    expected = start().double()
    for number in range(30):
        expected += sum(SHARES[client] * delta(client, number).double() for client in range(4))
    for result in results:
        assert torch.allclose(result.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_mean_and_variance_over_who_takes_part(beta) -> None:
    """Exactly, over all sets: sum a_i Delta_i, and sum a_i^2 (1 - p_i) / p_i |Delta_i - beta h_i|^2.

    Client 0 is always there, so the empty set, in which the algorithm takes no step, has no chance.
    """
    new = [delta(client, "new").double() for client in range(4)]
    old = [delta(client, "old").double() for client in range(4)]
    mean, square = torch.zeros(SIZE, dtype=torch.float64), 0.0
    for present in product([False, True], repeat=4):
        chances = [p if there else 1 - p for p, there in zip(RATES, present, strict=True)]
        if not np.prod(chances):
            continue
        aggregator = fedstale(beta)
        for client in range(4):
            aggregator.last.remember(client, old[client].float(), float(SHARES[client]))
        heard = [update(client, 0, new[client].float()) for client in range(4) if present[client]]
        step = aggregator.direction(heard).double()
        mean += float(np.prod(chances)) * step
        square += float(np.prod(chances)) * float(step @ step)
    expected = sum(share * one for share, one in zip(SHARES, new, strict=True))
    spread = sum(
        share**2 * (1 - p) / p * float((one - beta * two) @ (one - beta * two))
        for share, p, one, two in zip(SHARES, RATES, new, old, strict=True)
    )
    assert torch.allclose(mean, torch.as_tensor(expected), atol=1e-6)
    assert square - float(mean @ mean) == pytest.approx(spread, rel=1e-5)


def test_the_adaptive_beta_tends_to_the_one_of_least_variance() -> None:
    """Updates around fixed means: news are part noise, so some beta between the ends is best; it must find that."""
    rates, noise = [1.0, 0.5, 0.5, 0.3], 1.0
    aggregator = FedStale(torch.zeros(50), taking_part(rates), beta="adaptive", known_participation=True)
    driver, betas = Driver(aggregator, 4), []
    draw = stream(9, "updates")
    middles = torch.from_numpy(draw.standard_normal((4, 50))).float()
    for _ in range(400):
        driver.turn({
            client: middles[client] + noise * torch.from_numpy(draw.standard_normal(50)).float()
            for client in sorted(driver.busy)
        })  # fmt: skip
        betas.append(aggregator.present_beta())
    counts = [share**2 * (1 - p) / p for share, p in zip(SHARES, rates, strict=True)]
    signal = [float(middle @ middle) for middle in middles]
    product_ = sum(count * part for count, part in zip(counts, signal, strict=True))
    best = product_ / sum(count * (part + 50 * noise**2) for count, part in zip(counts, signal, strict=True))
    assert betas[0] == 0
    assert np.mean(betas[200:]) == pytest.approx(best, abs=0.05)
    assert 0.2 < best < 0.8


def test_who_was_never_heard_is_remembered_as_zero_and_takes_no_room() -> None:
    aggregator = fedstale()
    driver = Driver(aggregator, 4)
    driver.turn()
    heard = set(aggregator.last)
    assert 0 < len(heard) < 4
    assert all(not aggregator.last[client].any() for client in set(range(4)) - heard)


def test_weight_decay_shrinks_the_model_on_the_server() -> None:
    """As in the authors' code: at lr 1 by its own factor in every step."""
    aggregator = fedstale(weight_decay=5e-4)
    driver = Driver(aggregator, 4)
    driver.turn(dict.fromkeys(range(4), torch.zeros(SIZE)))
    assert torch.allclose(aggregator.params, (1 - 5e-4) * start())


def test_known_participation_is_refused_where_the_fleet_does_not_decide_it() -> None:
    for options in ({"cohort": 3}, {"goal": 2}, {"deadline": 5}):
        with pytest.raises(ValueError, match="participation is known only where all present are asked and waited for"):
            fedstale(**options)


def test_estimated_participation_uses_earlier_rounds_alone() -> None:
    """Weights are a_i at a client's first time, then a_i times the mean of its gaps."""
    aggregator = fedstale(0.0, known=False)
    driver, seen = Driver(aggregator, 4), {client: [] for client in range(4)}
    for number in range(60):
        before, turn = aggregator.params, aggregator.roster.turn
        present = sorted(driver.busy)
        weights = [SHARES[c] * (seen[c][-1] / len(seen[c]) if seen[c] else 1) for c in present]
        driver.turn({client: delta(client, number) for client in present})
        expected = sum(w * delta(c, number).double() for w, c in zip(weights, present, strict=True))
        assert torch.allclose(aggregator.params.double(), before.double() + expected, atol=1e-5)
        for client in present:
            seen[client].append(turn)


def test_fedvarp_and_beta_one_agree_where_everybody_has_the_same_chance_and_number() -> None:
    """Uniform cohorts of half the clients: 1 / |S| is 1 / (p N)."""
    half = [0.5] * 4
    pairs = [(0, 1), (2, 3), (0, 2), (1, 3), (1, 2)] * 3
    book = census(4, [10] * 4, half)
    stale = FedStale(start(), Roster(Uniform(1), census=book), beta=1.0, known_participation=True)
    varp = FedVARP(start(), Roster(Uniform(1), census=book), cohort=2)
    for number, pair in enumerate(pairs):
        heard = [update(client, number, delta(client, number)) for client in pair]
        assert torch.allclose(stale.direction(heard), varp.direction(heard), atol=1e-6)


@given(st.lists(st.sets(st.integers(0, 3)), min_size=1, max_size=12), st.floats(0, 1))
def test_the_running_sum_is_the_sum(sets, beta) -> None:
    aggregator = fedstale(beta)
    for number, present in enumerate(sets):
        aggregator.roster.turn += 1
        if present:
            aggregator.direction([update(client, number, delta(client, number)) for client in sorted(present)])
        total = sum(SHARES[client] * aggregator.last[client].double() for client in range(4))
        assert torch.allclose(aggregator.last.sum, torch.as_tensor(total), atol=1e-6)


MEMORY = """
import sys, torch
sys.path.insert(0, {tests!r})
from servers import census, update
from fedsim.aggregators import FedStale
from fedsim.roster import Roster
from fedsim.selection import Uniform
size, clients, visited = 100_000, 100_000, 1_000
aggregator = FedStale(torch.zeros(size), Roster(Uniform(0), census=census(clients)), memory={place!r}, cohort=10)
for turn in range(visited // 10):
    aggregator.roster.turn += 1
    heard = range(turn, clients, 10_000)
    aggregator.step([update(client, turn, torch.full((size,), 1.0 + client)) for client in heard])
assert len(aggregator.last) == visited and float(aggregator.last[3 + 20_000][7]) == 1 + 3 + 20_000
print(*(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("place", ["ram", "disk"])
def test_a_hundred_thousand_clients_with_a_hundred_thousand_parameters_fit_into_a_gigabyte(place) -> None:
    """One per cent of them visited: 400 MB of rows, and the interpreter with torch."""
    code = MEMORY.format(tests=str(Path(__file__).parent), place=place)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1e9


def test_a_client_without_examples_is_no_trouble_to_the_adaptive_beta() -> None:
    """Its importance is zero, and so is its weight."""
    aggregator = FedStale(start(), Roster(Uniform(1), census=census(2, [0, 10])), beta="adaptive")
    driver = Driver(aggregator, 2)
    for number in range(4):
        driver.turn({client: delta(client, number) for client in range(2)})
    assert aggregator.version == 4
    assert torch.allclose(aggregator.params, start() + sum(delta(1, number) for number in range(4)), atol=1e-5)
