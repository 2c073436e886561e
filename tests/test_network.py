"""The fluid network against hand-computed cases, a slow reference, and the laws of max-min fairness."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Hashable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import inf, nan
from random import Random

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from fedsim.network import NETWORKS, Flow, Fluid, Routes, Star, Steps, Transfer, finish_times, fluid

close_to = pytest.approx
quick = settings(max_examples=120, deadline=None, derandomize=True)


def line(*capacities: float, latency: float = 0.0, directed: bool = False) -> nx.Graph:
    """Nodes 0, 1, 2, ... in a row."""
    graph = nx.DiGraph() if directed else nx.Graph()
    for node, capacity in enumerate(capacities):
        graph.add_edge(node, node + 1, capacity=capacity, latency=latency)
    return graph


def transfer(path: list[Hashable], size: float, start: float = 0.0) -> Transfer:
    return {"path": path, "bytes": size, "start": start}


# Hand-computed cases


def test_two_flows_halve_a_link_and_the_longer_one_takes_it_over():
    # 5 B/s each until the 50 bytes are through at 10 s; 50 of the 100 are left, at 10 B/s.
    assert finish_times(line(10.0), [transfer([0, 1], 50), transfer([0, 1], 100)]) == [10.0, 15.0]


def test_a_third_of_a_whole_capacity_is_exact():
    assert finish_times(line(10.0), [transfer([0, 1], 100)] * 3) == [close_to(30.0, rel=1e-15)] * 3


def test_the_classic_three_flows_on_two_links():
    # Links of 10 and 16: the long flow and the first short one get 5 each, the second short one the other 11.
    network = Fluid(line(10.0, 16.0))
    long, first, second = (network.open(path, 110, 0.0) for path in ([0, 1, 2], [0, 1], [1, 2]))
    assert [long.rate, first.rate, second.rate] == [5.0, 5.0, 11.0]
    assert [flow.finish for flow in (long, first, second)] == [22.0, 22.0, 10.0]
    assert network.advance(10.0) == [second]
    assert (long.rate, long.finish, second.rate, second.finish) == (5.0, 22.0, 0.0, 10.0)


def test_a_slow_phone_leaves_its_share_to_the_others():
    graph = Star(latency=0, server_up=30.0, server_down=30.0).graph(downs=[4.0, 100.0, 100.0], ups=[1.0] * 3)
    network, routes = Fluid(graph), Routes(graph)
    flows = [network.open(routes.path("server", client), 130, 0.0) for client in range(3)]
    assert [flow.rate for flow in flows] == [4.0, 13.0, 13.0]
    assert [flow.finish for flow in flows] == [32.5, 10.0, 10.0]


def test_latency_comes_first_and_takes_no_capacity():
    # The second starts to send at 3 s, when the first has just ended.
    graph = line(10.0, 10.0, latency=0.5)
    assert finish_times(graph, [transfer([0, 1, 2], 20), transfer([1, 2], 20, start=2.5)]) == [3.0, 5.0]
    assert Fluid(graph).way([0, 1, 2]).latency == 1.0


def test_a_later_start_slows_down_and_an_end_speeds_up():
    # 0-2 s alone (20 bytes); 2-6 s shared (20 each, the second ends); the first's last 60 bytes take 6 s.
    assert finish_times(line(10.0), [transfer([0, 1], 100), transfer([0, 1], 20, start=2.0)]) == [12.0, 6.0]


def test_an_undirected_edge_is_shared_by_both_directions_and_a_directed_one_is_not():
    both = [transfer([0, 1], 10), transfer([1, 0], 10)]
    assert finish_times(line(10.0), both) == [2.0, 2.0]
    directed = line(10.0, directed=True)
    directed.add_edge(1, 0, capacity=10.0, latency=0.0)
    assert finish_times(directed, both) == [1.0, 1.0]


@pytest.mark.parametrize("graph", [line(inf, 8.0), line(8.0, 8.0)])
def test_what_need_not_wait_finishes_at_once(graph):
    wait_free = [transfer([1], 7, start=3.0), transfer([1, 2], 0, start=3.0)]
    assert finish_times(graph, [transfer([1, 2], 80), *wait_free]) == [10.0, 3.0, 3.0]


def test_infinite_capacity_is_no_network():
    graph = Star(server_up=inf, server_down=inf).graph(downs=[inf], ups=[8.0])
    paths = Routes(graph).path("server", 0), Routes(graph).path(0, "server")
    assert finish_times(graph, [{"path": path, "bytes": 16, "start": 1.0} for path in paths]) == [1.03, close_to(3.03)]


def test_one_client_and_two_clients_on_a_star():
    star = Star(latency=250_000, server_up=10.0, server_down=10.0)
    for clients, expected in ((1, [5.25]), (2, [10.25, 10.25])):
        graph = star.graph(downs=[20.0] * clients, ups=[20.0] * clients)
        routes = Routes(graph)
        flows = [transfer(list(routes.path("server", client)), 50) for client in range(clients)]
        assert finish_times(graph, flows) == expected


# The state machine


def test_flows_are_told_once_by_time_then_by_order_of_opening():
    network = Fluid(nx.compose(line(10.0), nx.relabel_nodes(line(10.0), {0: "a", 1: "b"})))
    far, near = [network.open(path, 10, 0.0) for path in (["a", "b"], [0, 1])]
    later, also_far = network.open([0, 1], 40, 0.0), network.open(["a", "b"], 10, 0.0)
    assert network.next_finish == 2.0
    assert network.advance(1.9) == []
    assert network.advance(2.0) == [far, near, also_far]
    assert network.advance(9.0) == [later]
    assert network.advance(9.0) == []
    assert (later.finish, network.next_finish) == (5.0, inf)


def test_whoever_ends_at_one_instant_leaves_together(monkeypatch):
    network = Fluid(line(30.0))
    flows = [network.open([0, 1], size, 0.0) for size in (10, 10, 20)]
    assert network.next_finish == 1.0
    rounds = recorded(monkeypatch)
    assert network.advance(1.0) == flows[:2]
    assert flows[2].rate == 30.0
    assert rounds == [{flows[2]}]


def test_what_starts_at_one_instant_is_shared_out_once(monkeypatch):
    rounds = recorded(monkeypatch)
    network = Fluid(line(30.0))
    flows = {network.open([0, 1], 10, 0.0) for _ in range(3)}
    assert network.next_finish == 1.0
    assert rounds == [flows]


def test_a_closed_flow_gives_its_share_back_and_its_bytes_are_lost():
    network = Fluid(line(10.0))
    stays, goes = network.open([0, 1], 100, 0.0), network.open([0, 1], 100, 0.0)
    assert network.close(goes, 4.0) == 20.0
    assert (goes.rate, goes.finish) == (0.0, inf)
    assert (stays.rate, stays.finish) == (10.0, 12.0)
    assert (network.opened, network.delivered, network.lost, network.unsent) == (200, 0, 20.0, 80.0)
    assert network.close(goes, 5.0) == 20.0  # closing again changes nothing
    assert network.advance(inf) == [stays]
    assert (network.opened, network.delivered, network.lost, network.unsent) == (200, 100, 20.0, 80.0)


def test_a_flow_that_has_finished_is_not_lost_by_closing_it():
    network = Fluid(line(10.0))
    flow = network.open([0, 1], 100, 0.0)
    assert network.close(flow, 10.0) == 100
    assert (network.delivered, network.lost, network.advance(10.0)) == (100, 0, [flow])


def test_a_flow_too_short_for_the_clock_ends_without_a_loop():
    network = Fluid(line(1e9))
    flows = [network.open([0, 1], 1e-9, 1e9) for _ in range(3)]
    assert network.next_finish == 1e9
    assert network.advance(1e9) == flows


def test_a_change_touches_only_its_own_pool(monkeypatch):
    graph = nx.disjoint_union(line(10.0), line(30.0))
    network = Fluid(graph)
    near = [network.open([0, 1], 100, 0.0) for _ in range(3)]
    far = [network.open([2, 3], 100, 0.0) for _ in range(3)]
    before = [flow.finish for flow in far]
    rounds = recorded(monkeypatch)
    near.append(network.open([0, 1], 100, 0.1))
    network.close(near.pop(0), 0.3)
    assert network.next_finish == before[0]
    assert [flow.finish for flow in far] == before
    assert rounds == [{*near, *rounds[0]}, set(near)]
    assert not set(far) & set.union(*rounds)


def test_an_unchanged_rate_leaves_the_foreseen_finish_as_it_was():
    """To the last bit: the slow flow keeps its rate while the others on its full link come and go."""
    network = Fluid(line(0.3, 7.0))
    slow, other = network.open([0, 1, 2], 1.1, 0.0), network.open([1, 2], 100, 0.0)
    before = slow.finish
    for step in range(1, 8):
        passing = network.open([1, 2], 100, step * 0.1)
        assert (slow.rate, slow.finish) == (0.3, before)
        network.close(passing, step * 0.1 + 0.03)
    assert network.advance(inf) == [slow, other]
    assert slow.finish == before


def test_a_crowd_that_has_gone_leaves_no_trace(monkeypatch):
    network = Fluid(line(10.0))
    for _ in range(3):
        network.open([0, 1], 10, 0.0)
    assert len(network.advance(100.0)) == 3
    rounds = recorded(monkeypatch)
    assert network.open([0, 1], 10, 100.0).finish == 101.0
    assert rounds == []


def test_the_next_finish_is_the_earliest_of_all_through_a_thousand_changes():
    random = Random(5)
    graph = Star(server_up=120.0).graph(downs=[random.uniform(1, 9) for _ in range(30)], ups=[1.0] * 30)
    network, routes = Fluid(graph), Routes(graph)
    flows: list[Flow] = []
    for step in range(1000):
        now = step * 0.1
        gone = set(network.advance(now))
        flows = [flow for flow in flows if flow not in gone]
        assert not any(flow.finish <= now for flow in flows)
        if flows and random.random() < 0.45:
            network.close(flows.pop(random.randrange(len(flows))), now)
        else:
            flows.append(network.open(routes.path("server", random.randrange(30)), 10 ** random.uniform(0, 6), now))
        network.check()
        assert network.next_finish == min((flow.finish for flow in flows), default=inf)


def test_flows_that_cannot_fill_their_links_never_touch_anybody(monkeypatch):
    rounds = recorded(monkeypatch)
    graph = Star(server_up=100.0).graph(downs=[0.1] * 1000, ups=[1.0] * 1000)  # 1000 times 0.1 is a little above 100
    network, routes = Fluid(graph), Routes(graph)
    for client in range(999):
        network.open(routes.path("server", client), 100, float(client))
    assert len(network.advance(1500.0)) == 501
    assert rounds == []


def test_a_flow_that_touches_nobody_can_be_completed_by_its_owner():
    network = Fluid(line(10.0))
    flow = network.open([0, 1], 20, 0.0)
    assert network.complete(flow, flow.shared_finish)
    assert (network.now, network.delivered, flow.rate, flow.finish) == (2.0, 20, 0.0, 2.0)
    assert not network.complete(flow, 2.0)
    assert network.advance(3.0) == []
    assert network.open([0, 1], 20, 3.0).finish == 5.0
    network.check()


def test_a_flow_that_shares_or_has_shared_is_not_completed_but_advanced():
    network = Fluid(line(10.0))
    first, second = network.open([0, 1], 20, 0.0), network.open([0, 1], 50, 1.0)
    assert not network.complete(first, 2.0)
    assert not network.complete(second, 6.0)  # though nobody has worked out the rates yet
    assert network.advance(3.0) == [first]
    assert second.finish == 7.0
    assert not network.complete(second, 7.0)
    assert network.advance(7.0) == [second]


def test_nobody_is_completed_while_another_is_still_to_be_told():
    network = Fluid(nx.disjoint_union(line(10.0), line(10.0)))
    shared = [network.open([0, 1], 10, 0.0) for _ in range(2)]
    assert network.next_finish == 2.0
    alone = network.open([2, 3], 10, 1.5)
    assert not network.complete(alone, 2.5)  # they finish before
    empty = network.open([2, 3], 0, 2.25)
    assert not network.complete(empty, 2.25)  # they have finished
    assert network.advance(2.5) == [*shared, empty, alone]


def test_who_has_finished_unseen_makes_room_for_the_next(monkeypatch):
    rounds = recorded(monkeypatch)
    network = Fluid(line(10.0))
    first, second = network.open([0, 1], 20, 0.0), network.open([0, 1], 20, 3.0)
    assert network.unhindered(second)
    assert (first.rate, second.rate, second.finish, rounds) == (0.0, 10.0, 5.0, [])
    assert network.advance(5.0) == [first, second]


def test_a_shared_link_that_nobody_fills_passes_nothing_on(monkeypatch):
    """Alone each could go faster than the wide link's share, but the narrow links hold them back: 5 + 5 + 12 < 25."""
    network = Fluid(line(10.0, 25.0, 12.0))
    slow = [network.open([0, 1, 2], 100, 0.0) for _ in range(2)]
    assert [flow.rate for flow in slow] == [5.0, 5.0]
    rounds = recorded(monkeypatch)
    other = network.open([1, 2, 3], 100, 1.0)
    assert (other.rate, rounds) == (12.0, [])
    network.check()
    network.close(slow[0], 2.0)
    assert (slow[1].rate, other.rate) == (10.0, 12.0)
    assert network.open([1, 2], 100, 3.0).rate == close_to(25 / 3)
    assert (slow[1].rate, other.rate) == (close_to(25 / 3), close_to(25 / 3))


def test_a_change_does_not_look_at_whoever_is_slower_than_it_is_felt(monkeypatch):
    network = Fluid(line(2.0, 10.0))
    slow = [network.open([0, 1, 2], 100, 0.0) for _ in range(2)]
    fast = [network.open([1, 2], 100, 0.0) for _ in range(2)]
    assert [flow.rate for flow in slow + fast] == [1.0, 1.0, 4.0, 4.0]
    rounds = recorded(monkeypatch)
    fast.append(network.open([1, 2], 100, 1.0))
    assert [flow.rate for flow in slow + fast] == [1.0, 1.0, *[close_to(8 / 3)] * 3]
    network.close(fast.pop(0), 2.0)
    assert [flow.rate for flow in slow + fast] == [1.0, 1.0, 4.0, 4.0]
    assert [len(flows) for flows in rounds] == [3, 2]
    network.close(slow.pop(), 3.0)
    assert [flow.rate for flow in slow + fast] == [2.0, 4.0, 4.0]


@pytest.mark.parametrize(("concurrent", "looked_at"), [(100, 35), (1000, 800)])
def test_on_a_mesh_an_event_looks_at_a_part_of_the_flows(monkeypatch, concurrent, looked_at):
    """One random 4-regular graph of 100 nodes, one component; each end is followed by a start at the same instant."""
    random = Random(1)
    graph = nx.random_regular_graph(4, 100, seed=1)
    for edge in graph.edges:
        graph.edges[edge].update(capacity=random.uniform(1, 10), latency=0.0)
    network, routes = Fluid(graph), Routes(graph)

    def start(now: float) -> None:
        network.open(routes.path(*random.sample(range(100), 2)), random.expovariate(1), now)

    for _ in range(concurrent):
        start(0.0)
    rounds = recorded(monkeypatch)
    for _ in range(100):
        now = network.next_finish
        for _ in network.advance(now):
            start(now)
    network.check()
    looks = sum(map(len, rounds[1:])) / 100
    assert 0 < looks < looked_at


def recorded(monkeypatch) -> list[set[Flow]]:
    """The flows of each working out of rates from now on."""
    rounds: list[set[Flow]] = []
    original = fluid.fair_rates

    def fair_rates(flows, links, scale):
        rounds.append(set(flows))
        return original(flows, links, scale)

    monkeypatch.setattr(fluid, "fair_rates", fair_rates)
    return rounds


# Refusals


@pytest.mark.parametrize(
    ("edge", "words"),
    [
        ({"latency": 0.0}, "'a' -> 'b' has no capacity"),
        ({"capacity": 1.0}, "'a' -> 'b' has no latency"),
        ({"capacity": 0.0, "latency": 0.0}, "'a' -> 'b' has the capacity 0.0"),
        ({"capacity": -1.0, "latency": 0.0}, "'a' -> 'b' has the capacity -1.0"),
        ({"capacity": nan, "latency": 0.0}, "'a' -> 'b' has the capacity nan"),
        ({"capacity": "fast", "latency": 0.0}, "'a' -> 'b' has the capacity 'fast'"),
        ({"capacity": 1.0, "latency": -1.0}, "'a' -> 'b' has the latency -1.0"),
        ({"capacity": 1.0, "latency": inf}, "'a' -> 'b' has the latency inf"),
    ],
)
def test_an_unfit_edge_is_refused_by_name(edge, words):
    with pytest.raises(ValueError, match=words):
        Fluid(nx.Graph([("a", "b", edge)]))


@pytest.mark.parametrize(
    ("path", "size", "now", "words"),
    [
        ([0, 2], 1, 0.0, "no link 0 -> 2"),
        ([0, 9], 1, 0.0, "no link 0 -> 9"),
        ([9], 1, 0.0, "not in the graph"),
        ([], 1, 0.0, "not in the graph"),
        ([0, 1, 0], 1, 0.0, "uses a link twice"),
        ([0, 1], -1, 0.0, "-1 bytes"),
        ([0, 1], nan, 0.0, "nan bytes"),
        ([0, 1], inf, 0.0, "inf bytes"),
        ([0, 1], 1, -1.0, "backwards"),
        ([0, 1], 1, nan, "backwards"),
    ],
)
def test_an_impossible_transfer_is_refused_and_leaves_no_trace(path, size, now, words):
    network = Fluid(line(1.0, 1.0))
    network.advance(0.0)
    with pytest.raises(ValueError, match=words):
        network.open(path, size, now)
    assert (network.opened, network.next_finish) == (0, inf)


def test_other_refusals():
    with pytest.raises(ValueError, match="multigraph"):
        Fluid(nx.MultiGraph())
    with pytest.raises(ValueError, match="starts at nan"):
        finish_times(line(1.0), [transfer([0, 1], 1, start=nan)])
    with pytest.raises(ValueError, match="2 clients can receive but 1 can send"):
        Star().graph(downs=[1.0, 1.0], ups=[1.0])


def test_check_finds_an_overfull_link_and_missing_bytes():
    network = Fluid(line(10.0))
    flow = network.open([0, 1], 100, 0.0)
    network.check()
    flow.shared_rate = 10.1
    with pytest.raises(AssertionError, match="bytes per second carries"):
        network.check()
    flow.shared_rate = 10.0
    network.opened += 1
    with pytest.raises(AssertionError, match="101 bytes were opened"):
        network.check()


# A slow reference: global progressive filling in exact fractions, done again at every event


@dataclass(eq=False)
class Slow:
    """A transfer of the reference; `gives_up` is when it is closed."""

    links: list[Hashable]
    left: Fraction
    start: Fraction
    gives_up: Fraction | None = None
    finish: Fraction | None = None


def slow_rates(flows: list[Slow], capacity: dict[Hashable, Fraction]) -> dict[Slow, Fraction]:
    """The link that offers its flows least is their bottleneck; take both away and go on."""
    room, rising, rates = dict(capacity), set(flows), {}
    while rising:
        crowd = {link: [flow for flow in rising if link in flow.links] for link in room}
        offer, _, narrow = min((room[link] / len(crowd[link]), str(link), link) for link in room if crowd[link])
        for flow in crowd[narrow]:
            rates[flow] = offer
            rising.remove(flow)
            for link in flow.links:
                room[link] -= offer
    return rates


Epochs = list[tuple[Fraction, dict[Hashable, Fraction]]]
"""Since when which capacities hold."""


def slow_run(flows: list[Slow], epochs: Epochs) -> None:
    """Fills in `finish` and `left` of every flow; one that waits for ever has no finish."""
    waiting, active = sorted(flows, key=lambda flow: flow.start), []
    now = Fraction(0)
    while waiting or active:
        capacity = [capacities for since, capacities in epochs if since <= now][-1]
        rates = slow_rates(active, capacity)
        ends = {flow: now + flow.left / rates[flow] for flow in active if rates[flow]}
        gives_up = [flow.gives_up for flow in active if flow.gives_up is not None]
        following = [since for since, _ in epochs if since > now]
        events = [*ends.values(), *gives_up, *following, *(flow.start for flow in waiting[:1])]
        if not events:
            return
        after = min(events)
        for flow in active:
            flow.left -= rates[flow] * (after - now)
            if ends.get(flow) == after:
                flow.finish = after
        now = after
        arriving = [flow for flow in waiting if flow.start == now]
        for flow in arriving:
            waiting.remove(flow)
            if not (flow.left and flow.links):
                flow.finish = now
        active = [flow for flow in active + arriving if flow.finish is None and flow.gives_up != now]


@dataclass
class Case:
    """A complete graph and flows along any of its paths."""

    graph: nx.Graph
    flows: list[Transfer]
    gives_up: list[float]
    """How long after its start each one is closed, if it is still there."""
    times: list[float]
    """When capacities change."""

    def slow(self, closing: bool) -> list[Slow]:
        """What the reference makes of them."""
        epochs = [(Fraction(since), self.capacities(since)) for since in sorted({0.0, *self.times})]
        flows: list[Slow] = []
        for flow, patience in zip(self.flows, self.gives_up, strict=True):
            hops = list(pairwise(flow["path"]))
            start = flow["start"] + sum(self.graph.edges[hop]["latency"] for hop in hops)
            links = [self.link(*hop) for hop in hops if self.link(*hop) in epochs[0][1]]
            gives_up = Fraction(start + patience) if closing else None
            flows.append(Slow(links, Fraction(flow["bytes"]), Fraction(start), gives_up))
        slow_run(flows, epochs)
        return flows

    def capacities(self, now: float) -> dict[Hashable, Fraction]:
        """Those of the finite links."""
        edges = self.graph.edges(data="capacity")
        present = {self.link(u, v): c if isinstance(c, float) else c.at(now)[0] for u, v, c in edges}
        return {link: Fraction(capacity) for link, capacity in present.items() if capacity < inf}

    def link(self, source: Hashable, target: Hashable) -> Hashable:
        return (source, target) if self.graph.is_directed() else frozenset((source, target))


number = st.one_of(st.integers(1, 6).map(float), st.floats(1e-3, 1e6))
time = st.one_of(st.integers(0, 4).map(float), st.floats(0, 10))


@st.composite
def cases(draw, changing: bool = False) -> Case:
    """Where capacities change, they do so at common times, and may be 0 from some on or for a while."""
    nodes = list(range(draw(st.integers(2, 5))))
    graph = draw(st.sampled_from([nx.Graph, nx.DiGraph]))()
    graph = nx.complete_graph(len(nodes), create_using=graph)
    times = sorted(draw(st.sets(time.filter(bool), min_size=1, max_size=6))) if changing else []
    for edge in graph.edges:
        capacity = draw(number | st.just(inf))
        if changing and draw(st.booleans()):
            chosen = sorted(draw(st.sets(st.sampled_from(times), min_size=1)))
            capacity = Steps(draw(number), [(step, draw(number | st.just(0.0))) for step in chosen])
        graph.edges[edge].update(capacity=capacity, latency=draw(st.sampled_from([0.0, 0.5])))
    count = draw(st.integers(1, 8))
    paths = [draw(st.permutations(nodes))[: draw(st.integers(1, len(nodes)))] for _ in range(count)]
    flows = [transfer(path, draw(number | st.just(0.0)), draw(time)) for path in paths]
    return Case(graph, flows, [draw(time) + 0.25 for _ in flows], times)


@quick
@given(cases() | cases(changing=True))
def test_finish_times_are_those_of_the_slow_reference(case):
    expected = [inf if flow.finish is None else float(flow.finish) for flow in case.slow(closing=False)]
    assert finish_times(case.graph, case.flows) == close_to(expected, rel=1e-9)


@quick
@given(cases() | cases(changing=True), st.randoms(use_true_random=False))
def test_the_order_of_equals_does_not_matter(case, random: Random):
    order = random.sample(range(len(case.flows)), len(case.flows))
    straight = finish_times(case.graph, case.flows)
    mixed = finish_times(case.graph, [case.flows[index] for index in order])
    assert mixed == close_to([straight[index] for index in order], rel=1e-12)


@quick
@given(cases() | cases(changing=True))
def test_laws_hold_at_every_event_and_bytes_are_conserved(case):
    """The max-min certificate after every event; the bytes carried, summed from the rates, are the reference's."""
    network = Fluid(case.graph)
    starts = [flow["start"] + network.way(flow["path"]).latency for flow in case.flows]
    script = [(start, 1, index) for index, start in enumerate(starts)]
    script += [(start + wait, 0, index) for index, (start, wait) in enumerate(zip(starts, case.gives_up, strict=True))]
    flows: dict[int, Flow] = {}
    carried = dict.fromkeys(range(len(starts)), 0.0)
    now = 0.0

    def go_to(then: float) -> None:
        nonlocal now
        while now < then:
            after = min(then, network.next_event)
            for index, flow in flows.items():
                carried[index] += flow.rate * (after - now)
            network.advance(after)
            now = after
            certify(case, network, flows, now)

    for then, opens, index in sorted(script):
        go_to(then)
        if opens:
            flows[index] = network.open(case.flows[index]["path"], case.flows[index]["bytes"], then)
        elif flows[index].finish > then:
            assert network.close(flows[index], then) == close_to(carried[index], rel=1e-9, abs=1e-9)
        certify(case, network, flows, now)

    network.advance(inf)
    network.check()
    assert network.delivered + network.lost + network.unsent == close_to(network.opened, rel=1e-12)
    for index, slow in enumerate(case.slow(closing=True)):
        assert flows[index].finish == close_to(inf if slow.finish is None else float(slow.finish), rel=1e-9)
        if flows[index].links:
            assert carried[index] == close_to(flows[index].nbytes - float(slow.left), rel=1e-9, abs=1e-9)


def certify(case: Case, network: Fluid, flows: dict[int, Flow], now: float) -> None:
    """No link is overfull, and every flow has a full link on which nobody is faster."""
    network.check()
    capacity = case.capacities(now)
    crowd: dict[Hashable, list[float]] = {}
    for flow in flows.values():
        for hop in pairwise(flow.path):
            crowd.setdefault(case.link(*hop), []).append(flow.rate)
    for flow in flows.values():
        if flow.rate:
            links = [link for link in (case.link(*hop) for hop in pairwise(flow.path)) if link in capacity]
            assert any(
                sum(crowd[link]) >= float(capacity[link]) * (1 - 1e-9) and flow.rate >= max(crowd[link]) * (1 - 1e-9)
                for link in links
            )


# Routes and topologies


@quick
@given(st.integers(0, 10**6), st.sampled_from([nx.Graph, nx.DiGraph]))
def test_routes_have_least_latency_then_fewest_hops(seed, kind):
    random = Random(seed)
    graph = nx.gnp_random_graph(6, random.uniform(0.1, 0.8), seed=seed, directed=kind is nx.DiGraph)
    for edge in graph.edges:
        graph.edges[edge]["latency"] = float(random.randint(0, 3))

    def cost(path: tuple[Hashable, ...]) -> tuple[float, int]:
        return sum(graph.edges[hop]["latency"] for hop in pairwise(path)), len(path)

    routes = Routes(graph)
    for source, target in random.sample([(a, b) for a in graph for b in graph if a != b], 10):
        every = [tuple(path) for path in nx.all_simple_paths(graph, source, target)]
        if every:
            found = routes.path(source, target)
            assert found in every
            assert cost(found) == min(map(cost, every))
            assert found == Routes(graph).path(source, target)  # whatever was asked before
        else:
            with pytest.raises(ValueError, match="no way"):
                routes.path(source, target)


def test_routes_on_a_star_and_from_a_node_to_itself():
    routes = Routes(Star().graph(downs=[1.0, 1.0], ups=[1.0, 1.0]))
    assert routes.path("server", 1) == ("server", "hub", 1)
    assert routes.path(0, "server") == (0, "hub", "server")
    assert routes.path(0, 1) == (0, "hub", 1)
    assert routes.path(1, 1) == (1,)
    with pytest.raises(ValueError, match="no node 2"):
        routes.path("server", 2)


def test_the_table_reads_yaml():
    star = TypeAdapter(NETWORKS["star"]).validate_python({"latency": "50 ms", "server_up": "8 Mbit/s"})
    assert star == Star(latency=50_000, server_up=1e6)
    for nonsense in ({"server_down": "0 bit/s"}, {"latency": "-1 ms"}, {"server_up": 5}):
        with pytest.raises(ValidationError):
            TypeAdapter(Star).validate_python(nonsense)


def test_the_network_needs_neither_torch_nor_simpy():
    code = "import sys, fedsim.network; sys.exit(bool({'torch', 'simpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
