"""The laws that every aggregator keeps, and each algorithm's own formula. A new aggregator is a new row in TABLE."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise, permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedsim.aggregators import AGGREGATORS, FedAsync, FedAvg, FedBuff
from fedsim.aggregators.aggregator import Aggregator
from fedsim.rng import stream
from fedsim.roster import Roster
from fedsim.selection import Uniform
from fedsim.staleness import Constant, Hinge, Polynomial
from fedsim.work import LocalResult, Update

SIZE = 5

TABLE: dict[str, Callable[[], Aggregator]] = {
    "fedavg": lambda: FedAvg(start(), roster(), cohort=3),
    "fedavg over-selecting": lambda: FedAvg(start(), roster(), cohort=4, goal=2, weights="uniform", lr=0.5),
    "fedbuff": lambda: FedBuff(start(), roster(), concurrency=3, goal=2),
    "fedbuff hinge": lambda: FedBuff(start(), roster(), concurrency=4, goal=3, discount=Hinge()),
    "fedasync": lambda: FedAsync(start(), roster(), concurrency=3),
}
EVERY = pytest.mark.parametrize("make", TABLE.values(), ids=TABLE.keys())


def start() -> Tensor:
    return torch.arange(SIZE, dtype=torch.float32) / 7


def roster() -> Roster:
    return Roster(Uniform(seed=1))


@dataclass(frozen=True)
class Known:
    """Numbers that are there, with a count of how often they were read."""

    delta: Tensor

    def result(self) -> LocalResult:
        return LocalResult(self.delta, loss=1.0, square_loss=1.0)


class Unreadable:
    def result(self) -> LocalResult:
        raise AssertionError("an update that does not count was read")


def update(client: int, version: int, delta: Tensor | None = None, examples: int = 10) -> Update:
    numbers = Unreadable() if delta is None else Known(delta)
    return Update(client, version, examples, duration=1, numbers=numbers)


def delta(*name: object) -> Tensor:
    return torch.from_numpy(stream(3, *name).standard_normal(SIZE)).float()


class Driver:
    """Plays a fleet: whom to hear next is the caller's choice."""

    def __init__(self, aggregator: Aggregator):
        self.aggregator, self.busy, self.heard = aggregator, {}, 0

    def act(self, started: list[int]) -> None:
        for client in started:
            assert client not in self.busy, "a busy client was started"
            self.busy[client] = self.aggregator.version

    def hear(self, client: int, numbers: Tensor | None = None) -> None:
        version = self.busy.pop(client)
        self.heard += 1
        numbers = delta(client, self.heard) if numbers is None else numbers
        self.act(self.aggregator.receive(update(client, version, numbers)))


def test_every_aggregator_is_in_the_table() -> None:
    assert {type(make()) for make in TABLE.values()} == set(AGGREGATORS.values())


@EVERY
def test_no_change_is_a_fixed_point(make) -> None:
    driver = Driver(make())
    driver.act(driver.aggregator.join(range(8)))
    for _ in range(20):
        driver.hear(min(driver.busy), torch.zeros(SIZE))
    assert driver.aggregator.version > 3
    assert torch.equal(driver.aggregator.params, start())


@EVERY
def test_every_accepted_update_moves_the_model(make) -> None:
    """A weight of zero would leave a coordinate that only one client moves where it was."""
    driver = Driver(make())
    driver.act(driver.aggregator.join(range(4)))
    before, version = driver.aggregator.params.clone(), driver.aggregator.version
    order = sorted(driver.busy)
    for place, client in enumerate(order):
        if driver.aggregator.version > version:
            break
        driver.hear(client, torch.eye(SIZE)[place])
    moved = (driver.aggregator.params - before)[: driver.heard]
    assert (moved > 0).all()


@EVERY
def test_a_copy_in_mid_run_continues_alike(make) -> None:
    driver = Driver(make())
    driver.act(driver.aggregator.join(range(9)))
    for _ in range(7):
        driver.hear(max(driver.busy))
    twin = deepcopy(driver)
    for each in (driver, twin):
        for _ in range(11):
            each.hear(min(each.busy))
    assert driver.busy == twin.busy
    assert torch.equal(driver.aggregator.params, twin.aggregator.params)


@EVERY
def test_the_model_handed_out_is_never_written_to(make) -> None:
    driver = Driver(make())
    driver.act(driver.aggregator.join(range(6)))
    given, copy = driver.aggregator.params, driver.aggregator.params.clone()
    for _ in range(9):
        driver.hear(min(driver.busy))
    assert torch.equal(given, copy)


@EVERY
def test_join_takes_a_set(make) -> None:
    one, other = make(), make()
    assert one.join([3, 1, 2, 0]) == other.join({0, 1, 2, 3})


@pytest.mark.parametrize("make", [TABLE["fedavg"], TABLE["fedbuff hinge"]], ids=["fedavg", "fedbuff"])
def test_the_order_of_arrival_within_a_step_does_not_change_a_bit(make) -> None:
    """The deltas are such that even a sum in float64 depends on its order."""
    scales, results = (1e20, 1.0, -1e20), []
    for order in permutations(range(3)):
        driver = Driver(make())
        driver.act(driver.aggregator.join(range(3)))
        for client in order:
            driver.hear(client, torch.full((SIZE,), scales[client]))
        assert driver.aggregator.version == 1
        results.append(driver.aggregator.params)
    assert all(torch.equal(result, results[0]) for result in results)


@EVERY
@given(data=st.data())
def test_whatever_happens_nobody_busy_is_started_and_nothing_stands_still(make, data) -> None:
    """Random joins, departures, arrivals and deadlines; whenever clients are idle, somebody is at work."""
    driver = Driver(make())
    here: set[int] = set()
    for _ in range(data.draw(st.integers(1, 40))):
        word = data.draw(st.sampled_from(["join", "leave", "hear", "expire"]))
        if word == "join":
            new = data.draw(st.sets(st.integers(0, 9), max_size=4))
            here |= new
            driver.act(driver.aggregator.join(new))
        elif word == "leave" and here:
            gone = data.draw(st.sets(st.sampled_from(sorted(here)), max_size=4))
            here -= gone
            driver.busy = {client: version for client, version in driver.busy.items() if client not in gone}
            driver.act(driver.aggregator.leave(gone))
        elif word == "hear" and driver.busy:
            driver.hear(data.draw(st.sampled_from(sorted(driver.busy))))
        elif word == "expire":
            driver.act(driver.aggregator.expire())
        assert set(driver.busy) == driver.aggregator.roster.busy
        assert here == driver.aggregator.roster.busy | set(driver.aggregator.roster.idle)
        assert driver.busy or not here
        assert torch.isfinite(driver.aggregator.params).all()


def test_fedavg_weighs_by_examples() -> None:
    aggregator = FedAvg(start(), roster(), cohort=2, lr=0.5)
    assert sorted(aggregator.join(range(2))) == [0, 1]
    aggregator.receive(update(0, 0, torch.ones(SIZE), examples=30))
    aggregator.receive(update(1, 0, -torch.ones(SIZE), examples=10))
    assert torch.allclose(aggregator.params, start() + 0.5 * (30 - 10) / 40)


def test_fedavg_ignores_the_late_and_never_reads_them() -> None:
    aggregator = FedAvg(start(), roster(), cohort=3, goal=2)
    first = aggregator.join(range(5))
    aggregator.receive(update(first[0], 0, torch.ones(SIZE)))
    second = aggregator.receive(update(first[1], 0, torch.ones(SIZE)))
    assert aggregator.version == 1
    assert first[2] not in second, "who is still at work on the last round is not asked again"
    assert aggregator.receive(update(first[2], 0)) == []


def test_fedavg_makes_do_with_those_heard_by_the_deadline() -> None:
    aggregator = FedAvg(start(), roster(), cohort=3, deadline=5)
    first = aggregator.join(range(6))
    aggregator.receive(update(first[0], 0, torch.ones(SIZE)))
    second = aggregator.expire()
    assert aggregator.version == 1
    assert torch.allclose(aggregator.params, start() + 1)
    assert not set(second) & set(first[1:])
    assert aggregator.expire() is not None
    assert aggregator.version == 1, "a round in which nobody was heard is no version"


def test_fedavg_begins_when_the_last_late_client_is_back() -> None:
    """A deadline may leave everybody busy with the former round: then the next begins with whoever returns."""
    aggregator = FedAvg(start(), roster(), cohort=2, deadline=5)
    aggregator.join(range(2))
    assert aggregator.expire() == []
    assert aggregator.receive(update(1, 0)) == [1]


def test_fedavg_refuses_a_goal_above_its_cohort() -> None:
    with pytest.raises(ValueError, match="goal is 5, but only 3 clients"):
        FedAvg(start(), roster(), cohort=3, goal=5)


def test_fedbuff_discounts_by_versions_since_the_download() -> None:
    """Client 0 is slow: it starts at version 0 and is heard at version 2, so it counts 3 ** -1/2 over the goal."""
    driver = Driver(FedBuff(torch.zeros(SIZE), roster(), concurrency=3, goal=2, discount=Polynomial(0.5)))
    driver.act(driver.aggregator.join(range(3)))
    slow, *others = sorted(driver.busy)
    for client in (*others, *others, others[0]):
        driver.hear(client, torch.zeros(SIZE))
    assert driver.aggregator.version == 2
    driver.hear(slow, torch.ones(SIZE))
    assert driver.aggregator.version == 3
    assert torch.allclose(driver.aggregator.params, torch.full((SIZE,), 3**-0.5 / 2))


def test_fedbuff_refills_a_freed_slot_at_once() -> None:
    driver = Driver(FedBuff(start(), roster(), concurrency=3, goal=10))
    driver.act(driver.aggregator.join(range(8)))
    for _ in range(25):
        driver.hear(min(driver.busy))
        assert len(driver.busy) == 3


def test_fedasync_mixes_models_not_differences() -> None:
    """x <- (1 - a) x + a (x_started_from + delta), with a = mixing * discount(staleness)."""
    aggregator = FedAsync(torch.zeros(SIZE), roster(), concurrency=2, mixing=0.5, discount=Polynomial(1))
    aggregator.join(range(2))
    aggregator.receive(update(0, 0, torch.ones(SIZE)))
    assert torch.allclose(aggregator.params, torch.full((SIZE,), 0.5))
    aggregator.receive(update(1, 0, torch.full((SIZE,), 3.0)))
    assert torch.allclose(aggregator.params, torch.full((SIZE,), 0.75 * 0.5 + 0.25 * 3))


@pytest.mark.parametrize("discount", [Constant(), Polynomial(0.5), Polynomial(2), Hinge(), Hinge(slope=1, grace=0)])
def test_discounts_start_at_one_never_grow_and_stay_positive(discount) -> None:
    weights = [discount(staleness) for staleness in range(200)]
    assert weights[0] == 1
    assert all(0 < later <= earlier for earlier, later in pairwise(weights))
