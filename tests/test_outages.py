"""Transfers and federations over links that fail and are repaired: who waits, who goes round, who gives up."""

from __future__ import annotations

from math import inf
from random import Random

import networkx as nx
import pytest
from worlds import simulation  # noqa: F401

from fedsim.carrier import Carrier
from fedsim.clock import FIRST_RANK, Clock, Cut
from fedsim.network import Fluid, Interrupted, Recording, Repeated, Steps, finish_times
from fedsim.units import SECOND

POLICIES = ("stall", "reroute", "fail")


def square(policy: str, latency: float = 0.0, **outages) -> nx.DiGraph:
    """a - b - d and, with twice the latency, a - c - d, at 10 bytes per second; ab=[(1, 2)] is an outage."""
    graph = nx.DiGraph(on_outage=policy)
    for one, other in ("ab", "bd", "ac", "cd"):
        for ends in ((one, other), (other, one)):
            down = outages.get(one + other, [])
            graph.add_edge(
                *ends, capacity=Interrupted(10.0, down), latency=latency * (1 + (one + other in ("ac", "cd")))
            )
    return graph


class Deliveries:
    """Sends on a clock, and notes when each has come and how many bytes had passed."""

    def __init__(self, graph: nx.Graph) -> None:
        self.clock = Clock()
        self.carrier = Carrier(self.clock, graph)
        self.seen: list[tuple[object, float, object]] = []
        self.counted = 0

    def count(self, nbytes: int) -> None:
        assert nbytes >= 0
        self.counted += nbytes

    def send(self, name: object, source, target, nbytes: int, at: float = 0.0, rank: int = 0):
        def steps():
            if at:
                yield round(at * SECOND)
            try:
                yield from self.carrier.carry(source, target, nbytes, FIRST_RANK + rank, self.count)
            except Cut as cut:
                self.seen.append((name, self.clock.now / SECOND, cut))
            else:
                self.seen.append((name, self.clock.now / SECOND, "arrived"))

        return self.clock.start(steps(), FIRST_RANK + rank)

    def run(self) -> list[tuple[object, float, object]]:
        while self.clock.peek() < inf:
            self.clock.step()
            self.carrier.fluid.check()
        return [
            (name, time, f"{type(w).__name__} {w.nbytes}" if isinstance(w, Cut) else w) for name, time, w in self.seen
        ]


def sent(graph: nx.Graph, *transfers) -> tuple[list[tuple[object, float, object]], int]:
    deliveries = Deliveries(graph)
    for number, transfer in enumerate(transfers):
        deliveries.send(number, *transfer, rank=number)
    return deliveries.run(), deliveries.counted


# One transfer of 100 bytes from a to d; the link a - b is down from 4 s to 9 s


@pytest.mark.parametrize(
    ("policy", "latency", "end", "counted"),
    [
        ("stall", 0.0, (0, 15.0, "arrived"), 100),
        ("reroute", 0.0, (0, 10.0, "arrived"), 100),  # 40 bytes have passed, the other 60 take 6 s
        ("reroute", 0.5, (0, 13.0, "arrived"), 100),  # 1 s of latency, 30 bytes in 3 s; 2 s of latency, 70 in 7 s
        ("fail", 0.0, (0, 4.0, "LinkDown 40"), 40),
        ("fail", 0.5, (0, 4.0, "LinkDown 30"), 30),
    ],
)
def test_a_link_fails_under_a_transfer(policy, latency, end, counted):
    assert sent(square(policy, latency, ab=[(4.0, 9.0)]), ("a", "d", 100)) == ([end], counted)


@pytest.mark.parametrize(
    ("policy", "end"),
    [("stall", (0, 19.0, "arrived")), ("reroute", (0, 15.0, "arrived")), ("fail", (0, 5.0, "LinkDown 0"))],
)
def test_a_transfer_starts_while_a_link_is_down(policy, end):
    assert sent(square(policy, ab=[(4.0, 9.0)]), ("a", "d", 100, 5.0))[0] == [end]


@pytest.mark.parametrize(
    ("policy", "end"),
    [("stall", (0, 12.0, "arrived")), ("reroute", (0, 8.0, "arrived")), ("fail", (0, 4.5, "LinkDown 0"))],
)
def test_a_link_fails_while_the_first_byte_is_on_its_way(policy, end):
    """It is noticed when that should arrive, at 4.5 s; another way costs 2 s and 1.5 s."""
    assert sent(square(policy, 0.5, ab=[(4.0, 10.5)]), ("a", "d", 15, 3.5))[0] == [end]


@pytest.mark.parametrize("policy", POLICIES)
def test_what_ends_as_the_link_fails_has_arrived_and_what_starts_as_it_is_repaired_passes(policy):
    graph = square(policy, ab=[(4.0, 9.0)])
    assert sent(graph, ("a", "d", 40), ("a", "d", 40, 9.0))[0] == [(0, 4.0, "arrived"), (1, 13.0, "arrived")]


def test_without_another_way_a_transfer_waits_until_a_repair_makes_one():
    """c - d is down first, so that at 4 s there is no way; at 6 s there is one over c, before a - b is repaired."""
    graph = square("reroute", ab=[(4.0, 20.0)], cd=[(2.0, 6.0)])
    assert sent(graph, ("a", "d", 100)) == ([(0, 12.0, "arrived")], 100)


def test_a_way_round_may_fail_too():
    graph = square("reroute", ab=[(4.0, 9.0)], ac=[(6.0, 30.0)])
    assert sent(graph, ("a", "d", 100)) == ([(0, 13.0, "arrived")], 100)  # 40 and 20 bytes; from 9 s on over b again


def test_a_failure_elsewhere_is_nobodys_concern_but_frees_what_others_share():
    """Both share b - d; the first loses a - b at 4 s with 20 bytes, and the second has b - d for itself then."""
    graph = square("fail", ab=[(4.0, 9.0)])
    ends, counted = sent(graph, ("a", "d", 100), ("b", "d", 50))
    assert ends == [(0, 4.0, "LinkDown 20"), (1, 7.0, "arrived")]
    assert counted == 70


def test_a_cut_on_a_way_round_counts_what_passed_on_both_ways():
    deliveries = Deliveries(square("reroute", 0.5, ab=[(4.0, 9.0)]))
    process = deliveries.send(0, "a", "d", 100)
    deliveries.clock.call(7 * SECOND, FIRST_RANK, process.cut)
    assert deliveries.run() == [(0, 7.0, "Cut 40")]
    again = Deliveries(square("reroute", 0.5, ab=[(4.0, 9.0)]))
    process = again.send(0, "a", "d", 100)
    again.clock.call(5 * SECOND, FIRST_RANK, process.cut)  # while the first byte is on its way round
    assert again.run() == [(0, 5.0, "Cut 30")]
    assert (deliveries.counted, again.counted) == (40, 30)


def test_a_transfer_that_knew_its_end_is_held_up_by_a_link_that_narrows():
    """Alone at its top rate it waits for no one; the step at 4 s comes between."""
    for policy in POLICIES:
        graph = nx.DiGraph([("a", "b", {"capacity": Steps(10.0, [(4.0, 5.0), (8.0, 10.0)]), "latency": 0.0})])
        graph.graph["on_outage"] = policy
        assert sent(graph, ("a", "b", 100))[0] == [(0, 12.0, "arrived")]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_link_that_carries_nothing_for_a_while_has_not_failed(policy):
    graph = nx.DiGraph(on_outage=policy)
    graph.add_edge("a", "b", capacity=Repeated(Recording([10.0, 0.0], [4 * SECOND, 9 * SECOND])), latency=0.0)
    assert sent(graph, ("a", "b", 100))[0] == [(0, 20.0, "arrived")]


# Many at once


def crowd(policy: str, seed: int) -> tuple[nx.Graph, list[tuple]]:
    random = Random(seed)
    graph = nx.Graph(nx.random_regular_graph(3, 10, seed=seed), on_outage=policy)
    for *_, edge in graph.edges(data=True):
        outages = [(start, start + random.randint(1, 9)) for start in random.sample(range(60), 2)]
        recording = Recording([float(random.randint(0, 9)), 5.0], [SECOND, 2 * SECOND + random.randrange(SECOND)])
        capacity = Repeated(recording) if random.random() < 0.4 else float(random.randint(2, 9))
        edge.update(capacity=Interrupted(capacity, outages), latency=random.choice([0.0, 0.25]))
    transfers = [(*random.sample(range(10), 2), random.choice([1, 10, 40]), random.randint(0, 50)) for _ in range(60)]
    return graph, transfers


@pytest.mark.parametrize("seed", range(4))
def test_stalled_transfers_on_the_clock_are_those_of_the_network_alone(seed):
    graph, transfers = crowd("stall", seed)
    routes = Carrier(Clock(), graph).routes
    flows = [{"path": routes.path(u, v), "bytes": n, "start": float(at)} for u, v, n, at in transfers]
    expected = dict(enumerate(finish_times(graph, flows)))
    ends, counted = sent(graph, *transfers)
    assert {name: time for name, time, _ in ends} == pytest.approx(expected, abs=2e-6)
    assert counted == sum(transfer[2] for transfer in transfers)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(4))
def test_bytes_are_conserved_whoever_waits_goes_round_or_gives_up(policy, seed):
    """Checked after every event of the clock; and the same twice, to the microsecond."""
    graph, transfers = crowd(policy, seed)
    deliveries = Deliveries(graph)
    for number, transfer in enumerate(transfers):
        deliveries.send(number, *transfer, rank=number)
    ends = deliveries.run()
    fluid: Fluid = deliveries.carrier.fluid
    assert len(ends) == len(transfers)
    assert (deliveries.carrier.untold, fluid.under_way) == (0, [])
    failed = {name: int(str(what).split()[1]) for name, _, what in ends if what != "arrived"}
    assert bool(failed) == (policy == "fail")
    wanted = sum(failed.get(number, transfer[2]) for number, transfer in enumerate(transfers))
    assert deliveries.counted == wanted
    assert fluid.delivered + fluid.lost == pytest.approx(wanted, abs=len(transfers) * 3)
    assert (ends, deliveries.counted) == sent(graph, *transfers)


@pytest.mark.parametrize("policy", POLICIES)
def test_at_one_instant_the_order_of_starting_does_not_matter(policy):
    """Two start as the link fails, two are under way; each is named by its rank, whoever was put on the clock first."""
    transfers = [("a", "d", 30, 4.0), ("a", "d", 30, 4.0), ("a", "d", 100), ("a", "d", 100)]

    def run(order: list[int]):
        deliveries = Deliveries(square(policy, ab=[(4.0, 9.0)]))
        for number in order:
            deliveries.send(number, *transfers[number], rank=number)
        return deliveries.run()

    assert run([0, 1, 2, 3]) == run([3, 1, 0, 2])
