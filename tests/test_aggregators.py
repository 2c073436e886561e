"""The laws that every aggregator keeps. A new aggregator is a new row in TABLE."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from servers import CLIENTS, SIZE, Driver, delta, roster, start, update

from fedsim import aggregators as of
from fedsim.aggregators import AGGREGATORS, Aggregator
from fedsim.aggregators.aggregator import is_finite
from fedsim.aggregators.memory import Memory
from fedsim.staleness import Constant, Hinge, Polynomial
from fedsim.state import restore, saved

TABLE: dict[str, Callable[[], Aggregator]] = {
    "fedavg": lambda: of.FedAvg(start(), roster(), cohort=3),
    "fedavg over-selecting": lambda: of.FedAvg(start(), roster(), cohort=4, goal=2, weights="uniform", lr=0.5),
    "fedavg of everybody": lambda: of.FedAvg(start(), roster(), cohort="all"),
    "fedprox": lambda: of.FedProx(start(), roster(), cohort=3, mu=0.1),
    "fednova": lambda: of.FedNova(start(), roster(), cohort=3),
    "scaffold": lambda: of.SCAFFOLD(start(), roster(), cohort=3),
    "sfat": lambda: of.SFAT(start(), roster(), cohort=3),
    "fedavgm": lambda: of.FedAvgM(start(), roster(), cohort=3),
    "fedadagrad": lambda: of.FedAdagrad(start(), roster(), cohort=3),
    "fedadam": lambda: of.FedAdam(start(), roster(), cohort=3),
    "fedyogi": lambda: of.FedYogi(start(), roster(), cohort=3),
    "diloco": lambda: of.DiLoCo(start(), roster(), cohort=3),
    "fedau": lambda: of.FedAU(start(), roster()),
    "fedau of a cohort": lambda: of.FedAU(start(), roster(), cohort=3, cutoff=4),
    "fedvarp": lambda: of.FedVARP(start(), roster(), cohort=3),
    "mifa": lambda: of.MIFA(start(), roster(), cohort=3),
    "fedstale": lambda: of.FedStale(start(), roster()),
    "fedstale known": lambda: of.FedStale(start(), roster(), beta=0.3, known_participation=True, memory="disk"),
    "fedstale adaptive": lambda: of.FedStale(start(), roster(), cohort=3, beta="adaptive"),
    "fetchsgd": lambda: of.FetchSGD(start(), roster(), cohort=3, rows=51, columns=1.0, kept=1.0),
    "fedfix": lambda: of.FedFix(start(), roster(), interval=1000),
    "fedfix identical": lambda: of.FedFix(start(), roster(), interval=1000, weights="identical", concurrency=4),
    "async_fedavg": lambda: of.AsyncFedAvg(start(), roster()),
    "async_fedavg identical": lambda: of.AsyncFedAvg(start(), roster(), weights="identical"),
    "fedasync": lambda: of.FedAsync(start(), roster(), concurrency=3),
    "fedbuff": lambda: of.FedBuff(start(), roster(), concurrency=3, goal=2),
    "fedbuff hinge": lambda: of.FedBuff(start(), roster(), concurrency=4, goal=3, discount=Hinge()),
    "fedbuff waiting": lambda: of.FedBuff(start(), roster(), concurrency="all", goal=3, weights="weighted", wait=True),
    "ca2fl": lambda: of.CA2FL(start(), roster(), concurrency=4, goal=3),
    "ace": lambda: of.ACE(start(), roster(), concurrency=3),
    "fadas": lambda: of.FADAS(start(), roster(), concurrency=4, goal=3),
}
EVERY = pytest.mark.parametrize("make", TABLE.values(), ids=TABLE.keys())
SYMMETRIC = ["fedavg", "fednova", "scaffold", "sfat", "fedadam", "fedau of a cohort", "fedvarp", "mifa",
             "fedstale adaptive", "fedbuff hinge", "fedbuff waiting", "ca2fl", "fadas"]  # fmt: skip


def test_every_aggregator_is_in_the_table() -> None:
    """But those whose clients send something else than a change of the model, which have laws of their own."""
    changes = {kind for kind in AGGREGATORS.values() if kind.answers is Aggregator.answers}
    assert {type(make()) for make in TABLE.values()} == changes
    assert len(AGGREGATORS) - len(changes) == 2


@EVERY
def test_no_change_is_a_fixed_point(make) -> None:
    driver = Driver(make(), 8)
    for _ in range(40):
        driver.hear(min(driver.busy), torch.zeros(SIZE))
    assert driver.aggregator.version > 3
    assert torch.equal(driver.aggregator.params, start())


@EVERY
def test_every_accepted_update_moves_the_model(make) -> None:
    """A weight of zero would leave a coordinate that only one client moves where it was."""
    driver = Driver(make(), 4)
    before, version = driver.aggregator.params.clone(), driver.aggregator.version
    for place, client in enumerate(sorted(driver.busy)):
        if driver.aggregator.version > version:
            break
        driver.hear(client, torch.eye(SIZE)[place])
    assert driver.aggregator.version == version + 1
    assert ((driver.aggregator.params - before)[: driver.heard] > 0).all()


@EVERY
def test_a_copy_in_mid_run_continues_alike(make) -> None:
    driver = Driver(make(), 9)
    for _ in range(7):
        driver.hear(max(driver.busy))
    twin = deepcopy(driver)
    for each in (driver, twin):
        for _ in range(11):
            each.hear(min(each.busy))
    assert driver.busy == twin.busy
    assert torch.equal(driver.aggregator.params, twin.aggregator.params)


@EVERY
def test_a_state_that_was_saved_continues_alike(make) -> None:
    """As bytes, put into a new aggregator; whoever was at work and whatever was buffered is in it too."""
    driver, twin = Driver(make(), 9), Driver(make())
    for _ in range(7):
        driver.hear(max(driver.busy))
    data = saved(driver.aggregator)
    assert data == saved(driver.aggregator)
    restore(twin.aggregator, data)
    twin.busy, twin.heard = dict(driver.busy), driver.heard
    for each in (driver, twin):
        for _ in range(11):
            each.hear(min(each.busy))
    assert driver.busy == twin.busy
    assert torch.equal(driver.aggregator.params, twin.aggregator.params)


def test_a_damaged_state_is_refused() -> None:
    data = saved(TABLE["fedstale"]())
    for damaged in (b"", data[:40], b"x" * len(data)):
        with pytest.raises(ValueError, match="no saved state, or a damaged one"):
            restore(TABLE["fedstale"](), damaged)


@EVERY
def test_the_model_handed_out_is_never_written_to(make) -> None:
    driver = Driver(make(), 6)
    given, copy = driver.aggregator.params, driver.aggregator.params.clone()
    for _ in range(9):
        driver.hear(min(driver.busy))
    assert torch.equal(given, copy)


@EVERY
def test_join_takes_a_set(make) -> None:
    one, other = make(), make()
    assert one.join([3, 1, 2, 0]) == other.join({0, 1, 2, 3})


@pytest.mark.parametrize("name", SYMMETRIC)
def test_the_order_of_arrival_within_a_step_does_not_change_a_bit(name) -> None:
    """The deltas are such that even a sum in float64 depends on its order."""
    scales, results = (1e20, 1.0, -1e20), []
    for order in permutations(range(3)):
        driver = Driver(TABLE[name](), 3)
        for client in order:
            driver.hear(client, torch.full((SIZE,), scales[client]))
        assert driver.aggregator.version == 1
        results.append(driver.aggregator.params)
    assert all(torch.equal(result, results[0]) for result in results)


@EVERY
def test_what_nobody_asked_for_is_refused(make) -> None:
    """A stranger's, one from another version, a second copy; none of them is read or frees the client."""
    driver = Driver(make(), 4)
    aggregator, known = driver.aggregator, min(driver.busy)
    for client, version in ((9, 0), (known, 7)):
        assert aggregator.receive(update(client, version)) == []
        assert aggregator.refused.pop() == (client, version, "unasked")
    assert set(aggregator.roster.busy) == set(driver.busy)
    driver.hear(known)
    if driver.busy.get(known) != 0:  # else it was asked again from the same version, and the copy cannot be told
        assert aggregator.receive(update(known, 0)) == []
        assert aggregator.refused == [(known, 0, "unasked")]


@EVERY
@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (torch.full((SIZE,), float("nan")), "infinite"),
        (torch.full((SIZE,), float("inf")), "infinite"),
        (torch.ones(SIZE + 1), "misshapen"),
        (torch.ones(1, SIZE), "misshapen"),
    ],
    ids=["nan", "inf", "long", "matrix"],
)
def test_bad_numbers_are_refused_and_leave_no_trace_in_the_model(make, bad, fault) -> None:
    """The others count as if the bad one had not been sent; steps of bad updates alone are none."""
    driver = Driver(make(), 8)
    culprit = min(driver.busy)
    driver.hear(culprit, bad)
    for _ in range(30):
        driver.hear(max(driver.busy))
    assert (culprit, 0, fault) in driver.aggregator.refused
    assert len(driver.aggregator.refused) == 1
    assert torch.isfinite(driver.aggregator.params).all()
    alone = Driver(make(), 1)
    alone.hear(0, bad)
    assert alone.aggregator.version == 0 or torch.equal(alone.aggregator.params, start())


@EVERY
@given(data=st.data())
def test_whatever_happens_nobody_busy_is_started_and_nothing_stands_still(make, data) -> None:
    """Random joins, departures, arrivals and deadlines; whenever clients are idle, somebody is at work or will be."""
    driver = Driver(make())
    here: set[int] = set()
    for _ in range(data.draw(st.integers(1, 40))):
        word = data.draw(st.sampled_from(["join", "leave", "hear", "expire"]))
        if word == "join":
            new = data.draw(st.sets(st.integers(0, CLIENTS - 1), max_size=4))
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
        assert driver.busy == driver.aggregator.roster.busy
        assert here == set(driver.busy) | set(driver.aggregator.roster.idle)
        assert torch.isfinite(driver.aggregator.params).all()
        if here and not driver.busy and driver.aggregator.deadline is not None:
            driver.act(driver.aggregator.expire())
        assert driver.busy or not here


@pytest.mark.parametrize("discount", [Constant(), Polynomial(0.5), Polynomial(2), Hinge(), Hinge(slope=1, grace=0)])
def test_discounts_start_at_one_never_grow_and_stay_positive(discount) -> None:
    weights = [discount(staleness) for staleness in range(200)]
    assert weights[0] == 1
    assert all(0 < later <= earlier for earlier, later in pairwise(weights))


@pytest.mark.parametrize("again", [deepcopy, lambda memory: reread(memory, Memory(torch.zeros(SIZE)))])
def test_a_memory_on_disk_stays_there(monkeypatch, again) -> None:
    """Copied, or restored into one that was in memory; and the new one's rows are its own."""
    mapped, real = [], np.memmap

    def mapping(*args, **options) -> np.ndarray:
        mapped.append(real(*args, **options))
        return mapped[-1]

    monkeypatch.setattr("fedsim.aggregators.memory.np.memmap", mapping)
    memory = Memory(torch.zeros(SIZE), "disk")
    memory.remember(3, delta("then"))
    twin = again(memory)
    memory.remember(3, delta("now"))
    twin.remember(5, delta("other"))
    assert torch.equal(twin[3], delta("then"))
    assert [block.data_ptr() for each in (memory, twin) for block in each.blocks] == [m.ctypes.data for m in mapped]


def reread(memory: Memory, into: Memory) -> Memory:
    restore(into, saved(memory))
    return into


def test_memories_take_room_for_those_alone_who_were_heard() -> None:
    """Of 100,000 clients, 30 are heard; rows are equal to what was remembered, in memory and on disk."""
    for place in ("ram", "disk"):
        memory = Memory(torch.zeros(SIZE), place)
        for client in range(0, 100_000, 3334):
            memory.remember(client, delta(client))
            memory.remember(client, delta(client, "again"), weight=1.0)
        assert len(memory) == 30
        assert sum(block.shape[0] for block in memory.blocks) == memory.depth
        assert torch.equal(memory[3334], delta(3334, "again"))
        assert torch.equal(memory[1], torch.zeros(SIZE))
        total = sum(delta(client, "again").double() for client in memory)
        assert torch.allclose(memory.sum, total, rtol=0, atol=1e-6)


def test_fedasync_forgets_what_those_who_are_done_or_gone_started_from() -> None:
    driver = Driver(of.FedAsync(start(), roster(), concurrency=3), CLIENTS)
    for number in range(20):
        driver.hear(min(driver.busy))
        if number % 5 == 0:
            gone = max(driver.busy)
            del driver.busy[gone]
            driver.act(driver.aggregator.leave(iter([gone])))
            driver.act(driver.aggregator.join([gone]))
        assert set(driver.aggregator.models) == set(driver.busy)


def test_finite_numbers_are_taken_though_their_sum_is_not() -> None:
    huge = torch.full((SIZE,), 3e38)
    assert is_finite(huge)
    for bad in (float("inf"), float("-inf"), float("nan")):
        assert not is_finite(torch.cat([torch.tensor([bad]), huge]))
        assert not is_finite(torch.tensor([bad, 0.0, -bad]))
    assert is_finite(torch.zeros(0))
