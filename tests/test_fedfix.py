"""The general asynchronous scheme (Fraboni et al., JMLR 2023) through the engine: who is in a step, for how much."""

from __future__ import annotations

from collections import Counter
from functools import partial
from math import ceil

import numpy as np
import pytest
import torch
from servers import SIZE, roster
from worlds import devices, simulation

from fedsim.aggregators import AsyncFedAvg, FedAvg, FedBuff, FedFix
from fedsim.progress import Until
from fedsim.staleness import Constant
from fedsim.trace import ARRIVE, START, VERSION
from fedsim.units import SECOND
from fedsim.work import LocalResult, Measured


def f_x(clients: int, spread: float) -> list[float]:
    """Seconds a client takes in the hardware scenario F-X: 1 for the slowest, 1 - X / 100 for the fastest."""
    return [1 - place / (clients - 1) * spread / 100 for place in range(clients)]


def ticks(seconds: float) -> int:
    return round(seconds * SECOND)


def run(make, seconds, until, train=None, **options):
    world = simulation(make, devices(*seconds), until, nbytes=1, **({"train": train} if train else {}), **options)
    world.run()
    return world


def pull(tasks, lr=0.002):
    """One exact gradient step on |x - c_i|^2 / 2 with c_i = the client's number, in the first coordinate."""
    return [LocalResult(lr * (task.client - task.params), 1.0, extra=None) for task in tasks]


FEDFIX = partial(FedFix, interval=ticks(0.2))
IDENTICAL = partial(FedBuff, concurrency="all", discount=Constant())


def test_with_an_interval_as_long_as_the_slowest_it_is_synchronous_fedavg() -> None:
    """Bit for bit, and on the same clock; with a longer interval only the clock differs."""
    seconds = f_x(5, 80)
    sync = run(partial(FedAvg, cohort="all"), seconds, Until(versions=7))
    for interval in (1.0, 1.5):
        fix = run(partial(FedFix, interval=ticks(interval)), seconds, Until(versions=7))
        assert torch.equal(fix.aggregator.params, sync.aggregator.params)
        assert fix.clock.now == interval * sync.clock.now


@pytest.mark.parametrize(("clients", "interval"), [(20, 0.2), (20, 0.5), (21, 0.2), (50, 0.02), (11, 0.08)])
def test_nobody_falls_into_the_wrong_interval(clients, interval) -> None:
    """Every client starts at ends of intervals alone, exactly ceil(tau / interval) of them apart, to the microsecond.

    Where times are floats, those that take a whole number of intervals may miss the end by a rounding error.
    """
    seconds, width = f_x(clients, 80), ticks(interval)
    world = run(partial(FedFix, interval=width), seconds, Until(time=60 * SECOND), executor="null")
    starts = {client: [] for client in range(clients)}
    for time, _, client, *_ in world.trace.of(START):
        starts[client].append(time)
    for client, times in starts.items():
        period = -(-ticks(seconds[client]) // width) * width
        assert times == list(range(0, 60 * SECOND + 1, period))
        assert len([1 for row in world.trace.of(ARRIVE) if row[2] == client]) == sum(
            time + ticks(seconds[client]) <= 60 * SECOND for time in times
        )


def weights_of(make, seconds, time, **options) -> tuple[np.ndarray, int]:
    """The sum of every client's weights, and how many steps there were: from runs whose updates are unit vectors."""
    clients = len(seconds)

    def unit(tasks):
        return [LocalResult(torch.eye(clients)[task.client], 1.0) for task in tasks]

    wide = lambda params, roster: make(torch.zeros(clients), roster)  # noqa: E731
    world = run(wide, seconds, Until(time=ticks(time)), train=unit, **options)
    return world.aggregator.params.double().numpy(), world.aggregator.version


@pytest.mark.parametrize("spread", [0, 40, 80])
@pytest.mark.parametrize("interval", [0.2, 0.5, 0.8])
def test_fedfix_weighs_every_client_by_its_importance(spread, interval) -> None:
    """Over a hyper-period the weights add up to exactly p_i an interval; p_i is uniform here."""
    seconds = f_x(9, spread)
    total, _ = weights_of(partial(FedFix, interval=ticks(interval)), seconds, 240)
    intervals = 240 / interval
    periods = [ceil(round(second / interval, 9)) for second in seconds]
    complete = np.array([intervals // period * period for period in periods])
    assert np.allclose(total, complete / 9, rtol=1e-4)
    assert np.allclose(total / intervals, 1 / 9, rtol=0.02)


def test_fedfix_of_identical_hardware_takes_one_large_step_and_then_waits() -> None:
    """F-0 and five intervals in a round: the weights of that step add up to five; the other intervals are no steps."""
    total, steps = weights_of(FEDFIX, f_x(10, 0), 20)
    assert steps == 20
    assert total.sum() == pytest.approx(20 * 5)


@pytest.mark.parametrize("spread", [0, 80])
def test_asynchronous_fedavg_weighs_every_client_by_its_importance(spread) -> None:
    """d_i = (sum_j 1 / tau_j) tau_i p_i: over time, p_i a step. For F-80 the slowest of 20 counts about 2.07."""
    seconds = f_x(20, spread)
    total, steps = weights_of(AsyncFedAvg, seconds, 400)
    assert np.allclose(total / steps, 1 / 20, rtol=0.02)
    heaviest = sum(1 / second for second in seconds) * max(seconds) / 20
    assert heaviest == pytest.approx(2.07 if spread else 1, abs=0.005)


@pytest.mark.parametrize("wait", [True, False], ids=["waiting", "refilled"])
def test_weighted_fedbuff_weighs_every_client_by_its_importance(wait) -> None:
    make = partial(IDENTICAL, goal=5, weights="weighted", wait=wait)
    early, first = weights_of(make, f_x(20, 80), 200)
    late, last = weights_of(make, f_x(20, 80), 600)
    assert np.allclose((late - early) / (last - first), 1 / 20, rtol=0.02)


def test_fedbuff_ends_are_the_other_algorithms() -> None:
    """A buffer of one is asynchronous FedAvg, a buffer of all that waits is synchronous FedAvg; bit for bit."""
    seconds = f_x(8, 80)
    one = run(partial(IDENTICAL, goal=1), seconds, Until(versions=60))
    alone = run(partial(AsyncFedAvg, weights="identical"), seconds, Until(versions=60))
    assert torch.equal(one.aggregator.params, alone.aggregator.params)
    assert one.clock.now == alone.clock.now
    everybody = run(partial(IDENTICAL, goal=8, wait=True), seconds, Until(versions=9))
    rounds = run(partial(FedAvg, cohort="all"), seconds, Until(versions=9))
    assert torch.equal(everybody.aggregator.params, rounds.aggregator.params)
    assert everybody.clock.now == rounds.clock.now


def fixed_point(make, seconds, lr=0.002) -> float:
    """Where one-step training on |x - i|^2 / 2 settles, averaged over the last third of a long run."""
    world = simulation(
        make, devices(*seconds), Until(time=1800 * SECOND), nbytes=1, train=partial(pull, lr=lr), every=10 * SECOND
    )
    seen = []
    world.progress.evaluate = lambda params: seen.append(float(params[0])) or Measured()
    world.run()
    return float(np.mean(seen[-60:]))


def centre(weights) -> float:
    return float(np.average(range(len(weights)), weights=weights))


SECONDS = f_x(6, 80)


@pytest.mark.parametrize(
    ("make", "q"),
    [
        (FEDFIX, [1] * 6),
        (partial(FEDFIX, weights="identical"), [1 / ceil(round(second / 0.2, 9)) for second in SECONDS]),
        (AsyncFedAvg, [1] * 6),
        (partial(AsyncFedAvg, weights="identical"), [1 / second for second in SECONDS]),
        (partial(IDENTICAL, goal=3, weights="weighted"), [1] * 6),
        (partial(IDENTICAL, goal=3), [1 / second for second in SECONDS]),
        (partial(IDENTICAL, goal=3, weights="weighted", wait=True), [1] * 6),
    ],
    ids=["fedfix", "fedfix identical", "async", "async identical", "buffer", "buffer identical", "waiting"],
)
def test_it_settles_at_the_optimum_of_what_it_weighs(make, q) -> None:
    """sum q_i c_i / sum q_i, where q_i is how much client i counts a step on average: the surrogate's optimum."""
    assert fixed_point(make, SECONDS) == pytest.approx(centre(q), abs=0.03)


def test_synchronous_fedavg_settles_at_the_mean() -> None:
    """It takes fewer steps in that time, and so larger ones."""
    assert fixed_point(partial(FedAvg, cohort="all"), SECONDS, lr=0.02) == pytest.approx(2.5, abs=1e-3)


def test_the_buffer_that_waits_settles_where_its_own_shares_say() -> None:
    """Its shares have no formula: they are counted in the trace of the same timeline."""
    make = partial(IDENTICAL, goal=3, wait=True)
    timeline = run(make, SECONDS, Until(time=1800 * SECOND), executor="null")
    heard = Counter(row[2] for row in timeline.trace.of(ARRIVE))
    assert fixed_point(make, SECONDS) == pytest.approx(centre([heard[client] for client in range(6)]), abs=0.03)
    assert abs(centre([heard[client] for client in range(6)]) - 2.5) > 0.3


@pytest.mark.parametrize(
    ("make", "clients", "spread", "steps"),
    [
        (AsyncFedAvg, 20, 0, 20.0),
        (AsyncFedAvg, 20, 80, 41.3),
        (AsyncFedAvg, 50, 80, 101.6),
        (partial(IDENTICAL, goal=5, wait=True), 20, 80, 7.2),
        (partial(IDENTICAL, goal=10, wait=True), 20, 80, 3.2),
    ],
)
def test_steps_in_a_unit_of_time(make, clients, spread, steps) -> None:
    """Arithmetic of the paper's hardware scenarios: sum_i 1 / tau_i for single arrivals, counted for buffers."""
    world = run(make, f_x(clients, spread), Until(time=200 * SECOND), executor="null")
    assert world.aggregator.version / 200 == pytest.approx(steps, rel=0.002, abs=0.06)


@pytest.mark.parametrize(("interval", "heard"), [(0.2, 6.9), (0.5, 14.0), (0.8, 17.5), (1.0, 20.0)])
def test_clients_in_a_step_of_fedfix(interval, heard) -> None:
    """sum_i 1 / ceil(tau_i / interval), of 20 clients and F-80."""
    world = run(partial(FedFix, interval=ticks(interval)), f_x(20, 80), Until(time=240 * SECOND), executor="null")
    assert len(world.trace.of(ARRIVE)) * interval / 240 == pytest.approx(heard, abs=0.1)


@pytest.mark.parametrize("goal", [1, 5, 10, 20])
def test_a_waiting_buffer_takes_those_who_return_first(goal) -> None:
    """Against the definition in a few lines: the first `goal` to return make a step and start again."""
    periods = [ticks(second) for second in f_x(20, 80)]
    returns, heard, steps = list(periods), Counter(), 0
    while True:
        first = sorted(range(20), key=lambda client: (returns[client], client))[:goal]
        now = returns[first[-1]]
        if now > 100 * SECOND:
            break
        steps += 1
        for client in first:
            returns[client] = now + periods[client]
            heard[client] += 1
    make = partial(IDENTICAL, goal=goal, wait=True)
    world = run(make, f_x(20, 80), Until(time=100 * SECOND), executor="null")
    assert world.aggregator.version == steps
    in_steps = Counter(row[2] for row in world.trace.of(ARRIVE))
    for update in world.aggregator.buffer:
        in_steps[update.client] -= 1
    assert in_steps == heard


@pytest.mark.parametrize("make", [FEDFIX, AsyncFedAvg, partial(IDENTICAL, goal=3, wait=True)])
def test_staleness_is_the_number_of_steps_on_the_way(make) -> None:
    """Counted from the trace alone: steps after the client's start, up to when it is heard."""
    world = run(make, f_x(7, 80), Until(time=30 * SECOND), executor="null")
    steps, base, checked = 0, {}, 0
    for _, kind, client, _, _, staleness, _ in world.trace.of(START, ARRIVE, VERSION):
        if kind == VERSION:
            steps += 1
        elif kind == START:
            base[client] = steps
        elif kind == ARRIVE:
            assert staleness == steps - base[client]
            checked += 1
    assert checked > 100


def test_the_clock_stands_while_nobody_is_there() -> None:
    """Else a run that nobody comes back to would tick for ever."""
    aggregator = FedFix(torch.zeros(SIZE), roster(), interval=5)
    aggregator.join([0])
    aggregator.leave([0])
    assert aggregator.expire() == []
    before = aggregator.round
    assert aggregator.refill() == []
    assert aggregator.round == before
    assert aggregator.join([0]) == [0]
    assert aggregator.round == before + 1
