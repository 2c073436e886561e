"""Links whose capacity changes in time: by hand, as functions of time, and over many random changes."""

from __future__ import annotations

from math import inf, nan
from random import Random

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.network import Flow, Fluid, Interrupted, Recording, Repeated, Routes, Steps, Varying, finish_times, fluid

close_to = pytest.approx
quick = settings(max_examples=150, deadline=None, derandomize=True)


def row(*capacities: float | Varying) -> nx.Graph:
    """Nodes 0, 1, 2, ... in a row, without latency."""
    return nx.Graph([(n, n + 1, {"capacity": capacity, "latency": 0.0}) for n, capacity in enumerate(capacities)])


def transfers(*sizes: float, start: float = 0.0):
    return [{"path": [0, 1], "bytes": size, "start": start} for size in sizes]


# By hand


@pytest.mark.parametrize(
    ("steps", "finish"),
    [
        ([(4.0, 5.0)], 16.0),  # 40 bytes in 4 s, the other 60 at half the speed
        ([(4.0, 20.0)], 7.0),
        ([(4.0, 0.0), (9.0, 10.0)], 15.0),  # nothing for 5 s
        ([(4.0, 0.0)], inf),
        ([(4.0, 1e-12)], 6e13 + 4),
        ([(10.0, 0.0)], 10.0),  # the last byte has passed
        ([(1.0, 5.0), (2.0, 20.0), (3.0, 5.0)], 3 + 65 / 5),
    ],
)
def test_one_flow_on_a_link_that_changes(steps, finish):
    assert finish_times(row(Steps(10.0, steps)), transfers(100)) == [finish]


def test_two_flows_share_what_there_is_at_every_time():
    # 5 each until 4 s (20 of 60 and of 100 bytes), 2 each until 14 s, then 10 each: 20 and 60 are left.
    link = Steps(10.0, [(4.0, 4.0), (14.0, 20.0)])
    assert finish_times(row(link), transfers(60, 100)) == [16.0, 18.0]


def test_who_ends_just_as_the_link_narrows_leaves_its_share_all_the_same():
    assert finish_times(row(Steps(10.0, [(4.0, 8.0)])), transfers(20, 100)) == [4.0, 14.0]


def test_what_a_narrowed_link_takes_from_one_flow_its_neighbours_get():
    network = Fluid(row(Steps(10.0, [(2.0, 1.0), (5.0, 10.0)]), 12.0))
    long, short = network.open([0, 1, 2], 100, 0.0), network.open([1, 2], 100, 0.0)
    assert [long.rate, short.rate, network.next_event] == [6.0, 6.0, 2.0]
    network.advance(2.0)
    assert [long.rate, short.rate, network.next_event] == [1.0, 11.0, 5.0]
    network.advance(5.0)
    assert [long.rate, short.rate] == [6.0, 6.0]
    assert network.next_event == network.next_finish == short.finish == 5.0 + (100 - 12 - 33) / 6
    network.check()


def test_a_change_that_nobody_feels_is_not_worked_out(monkeypatch):
    looks = []
    original = fluid.fair_rates
    monkeypatch.setattr(fluid, "fair_rates", lambda *given: looks.append(len(given[0])) or original(*given))
    network = Fluid(row(Steps(100.0, [(1.0, 50.0), (2.0, 16.0), (3.0, 8.0)]), 10.0, 3.0))
    fast, slow = network.open([0, 1, 2], 100, 0.0), network.open([1, 2, 3], 100, 0.0)
    assert [fast.rate, slow.rate] == [7.0, 3.0]
    looks.clear()
    network.advance(2.5)
    assert [fast.rate, slow.rate, looks] == [7.0, 3.0, []]
    network.advance(3.5)
    assert [fast.rate, slow.rate, looks] == [7.0, 3.0, []]
    other = network.open([0, 1], 100, 4.0)  # 8 for two: the slow one is below the level at which that is felt
    assert [fast.rate, other.rate, slow.rate, looks] == [4.0, 4.0, 3.0, [2]]


def test_a_link_that_grows_is_felt_only_by_those_that_were_full_on_it(monkeypatch):
    network = Fluid(row(1.0, Steps(10.0, [(1.0, 13.0), (2.0, 14.0)])))
    slow, fast = network.open([0, 1, 2], 100, 0.0), [network.open([1, 2], 100, 0.0) for _ in range(2)]
    assert [slow.rate, *(flow.rate for flow in fast)] == [1.0, 4.5, 4.5]
    looks = []
    original = fluid.fair_rates
    monkeypatch.setattr(fluid, "fair_rates", lambda *given: looks.append(set(given[0])) or original(*given))
    network.advance(1.0)
    assert [slow.rate, *(flow.rate for flow in fast)] == [1.0, 6.0, 6.0]
    assert looks == [set(fast)]
    network.close(fast.pop(), 2.0)  # at the instant at which the link grows again
    assert [slow.rate, fast[0].rate] == [1.0, 13.0]


def test_what_starts_on_a_link_that_is_down_waits_and_takes_no_time_of_others():
    network = Fluid(row(Steps(10.0, [(1.0, 0.0), (8.0, 10.0)]), 10.0))
    network.advance(3.0)
    stuck, free = network.open([0, 1, 2], 10, 3.0), network.open([1, 2], 20, 3.0)
    assert [stuck.rate, stuck.finish, free.rate, free.finish] == [0.0, inf, 10.0, 5.0]
    assert network.advance(6.0) == [free]
    assert (network.next_finish, network.next_event) == (inf, 8.0)
    assert network.close(stuck, 7.0) == 0.0
    assert (network.lost, network.unsent, network.advance(inf)) == (0.0, 10, [])


def test_a_tiny_transfer_late_in_time_waits_for_a_repair_all_the_same():
    late = 1e6
    link = Interrupted(1e9, [(late - 1, late + 1)])
    assert finish_times(row(link), transfers(1, start=late)) == [late + 1 + 1e-9]


@pytest.mark.parametrize(("other", "expected"), [(inf, [0.0, 5.0]), (8.0, [7.0, 8.0])])
def test_even_a_link_of_no_limit_can_be_down(other, expected):
    flows = [{"path": [0, 1, 2], "bytes": 16, "start": start} for start in (0.0, 1.0)]
    assert finish_times(row(Interrupted(inf, [(1.0, 5.0)]), other), flows) == close_to(expected, abs=1e-12)


def test_a_flow_that_is_to_end_when_a_link_fails_has_ended_whatever_was_rounded():
    random = Random(1)
    for _ in range(100):
        size, capacity, start = random.uniform(1, 9), random.uniform(1, 9), random.uniform(0, 1000)
        end = start + 6 * size / capacity
        found = finish_times(row(Steps(capacity, [(end, 0.0)])), transfers(size, 2 * size, 3 * size, start=start))
        assert found[-1] == close_to(end, rel=1e-11)


# A link without traffic


class Counted:
    """A capacity that counts how often it is asked."""

    levels = frozenset([4.0, 8.0])

    def __init__(self) -> None:
        self.asked = 0

    def at(self, time: float) -> tuple[float, float]:
        self.asked += 1
        second = time // 1
        return 4.0 if second % 2 else 8.0, second + 1


def test_a_link_without_flows_is_not_asked_and_knows_the_time_when_one_comes():
    link = Counted()
    network = Fluid(row(link, 100.0))
    network.open([1, 2], 1e6, 0.0)
    assert (network.next_event, link.asked) == (1e4, 0)
    network.advance(1001.5)
    flow = network.open([0, 1], 4, 1001.5)
    assert (flow.rate, link.asked) == (4.0, 1)
    other = network.open([0, 1], 1, 1001.75)
    assert (flow.rate, other.rate, link.asked) == (2.0, 2.0, 1)
    assert network.advance(1003.0) == [other, flow]
    assert (other.finish, flow.finish, link.asked) == (1002.125, 1002.375, 2)
    network.advance(2000.0)
    assert link.asked == 2


# Functions of time


def test_a_recording_is_repeated_from_its_offset_on():
    link = Repeated(Recording([5.0, 0.0, 7.0], [1_000_000, 1_500_000, 4_000_000]), offset=3_999_999)
    assert link.at(0.0) == (7.0, 0.000001)
    assert link.at(0.000001) == (5.0, 1.000001)
    assert link.at(1.2) == (0.0, 1.500001)
    assert link.at(4.000001 * 3) == link.at(12.000003) == (5.0, 13.000001)
    assert link.levels == {0.0, 5.0, 7.0}


lengths_of_steps = st.lists(st.integers(1, 10**7), min_size=1, max_size=6)


@quick
@given(lengths_of_steps, st.integers(0, 10**8), st.floats(0, 1e7))
def test_a_repeated_recording_goes_from_step_to_step_and_leaves_none_out(lengths, offset, time):
    """The next step is later than now, each step is followed by the next, and the capacity is that of the exact age."""
    ends = [sum(lengths[: place + 1]) for place in range(len(lengths))]
    link = Repeated(Recording([float(place + 1) for place in range(len(ends))], ends), offset)
    for _ in range(20):
        capacity, until = link.at(time)
        assert until > time
        begun = until - lengths[int(capacity) - 1] / 1e6
        assert begun <= time + 1e-8
        following, _ = link.at(until)
        assert following == capacity % len(ends) + 1
        time = until


@quick
@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.001, 20)), max_size=6), st.floats(0, 80))
def test_an_interrupted_link_is_down_in_its_outages_and_as_before_outside(pairs, time):
    outages = [(start, start + length) for start, length in pairs]
    base = Steps(3.0, [(20.0, 5.0), (60.0, 7.0)])
    link = Interrupted(base, outages)
    down = any(start <= time < end for start, end in outages)
    capacity, until = link.at(time)
    assert link.is_down(time) == down == (capacity == 0)
    assert until > time
    if not down:
        assert capacity == base.at(time)[0]
        assert not any(time < start < until for start, _ in outages)
        assert until == min([base.at(time)[1], *(start for start, _ in outages if start > time)])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Steps(1.0, [(2.0, 1.0), (2.0, 3.0)]), "increasing, finite times"),
        (lambda: Steps(1.0, [(nan, 1.0)]), "increasing, finite times"),
        (lambda: Steps(1.0, [(inf, 1.0)]), "increasing, finite times"),
        (lambda: Recording([1.0, 2.0], [5, 5]), "must increase"),
        (lambda: Recording([0.0, 0.0], [5, 6]), "nothing ever passes"),
        (lambda: Recording([], []), "nothing ever passes"),
        (lambda: Interrupted(1.0, [(3.0, 3.0)]), "expected a later end"),
        (lambda: Fluid(row(Steps(0.0))), "has the capacity 0.0"),
        (lambda: Fluid(row(Steps(5.0, [(1.0, -1.0)]))), "none may be below 0"),
        (lambda: Fluid(row(Steps(5.0, [(1.0, nan)]))), "none may be below 0"),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_outages_that_overlap_or_touch_are_one():
    assert Interrupted(1.0, [(5.0, 6.0), (2.0, 4.0), (1.0, 3.0), (4.0, 4.5)]).outages == [(1.0, 4.5), (5.0, 6.0)]


# Everything at once


@pytest.mark.parametrize("seed", range(6))
def test_flows_come_and_go_over_links_that_change_and_fail_and_nothing_is_lost(seed):
    """After every event no link is overfull and no byte is astray; the next event is the earliest; all ends at last."""
    random = Random(seed)
    graph = nx.random_regular_graph(3, 12, seed=seed)
    for *_, edge in graph.edges(data=True):
        ends = sorted(random.sample(range(1, 40), 5))
        recording = Recording([float(random.randint(0, 9)) for _ in ends[1:]] + [5.0], [end * 100_000 for end in ends])
        outages = [(start, start + random.uniform(0.5, 5)) for start in random.sample(range(60), 2)]
        edge.update(capacity=Interrupted(Repeated(recording, random.randrange(10**6)), outages), latency=0.0)
    network, routes = Fluid(graph), Routes(graph)
    flows = {network.open(routes.path(0, 7), 3, 0.0)}
    events = 0
    while flows:
        now = network.next_event
        assert network.next_finish == min(flow.finish for flow in flows)
        finished = network.advance(now)
        assert all(flow.finish <= now and flow in flows for flow in finished)
        flows -= set(finished)
        certify(network, flows)
        events += 1
        if events < 1500:
            for _ in range(random.randint(1, 2) if len(flows) < 30 else 0):
                flows.add(network.open(routes.path(*random.sample(range(12), 2)), random.choice([1, 3, 10]), now))
                network.check()
            if random.random() < 0.2 and flows:
                flow = min(flows, key=lambda flow: flow.number)
                flows.remove(flow)
                network.close(flow, now)
                network.check()
    assert network.opened == close_to(network.delivered + network.lost + network.unsent, rel=1e-9)
    assert events > 1000


def certify(network: Fluid, flows: set[Flow]) -> None:
    """Conservation, and max-min fairness: every flow has a link, full or down, on which nobody is faster."""
    network.check()
    for flow in flows:
        rates = {link: [other.rate for other in link.flows] for link in flow.links}
        assert any(
            sum(r) >= link.capacity * (1 - 1e-9) and flow.rate >= max(r) * (1 - 1e-9) for link, r in rates.items()
        )
