"""Whoever looks on at a run changes nothing, and notices an engine that breaks its word."""

from __future__ import annotations

from dataclasses import replace

import pytest
from drawn import BASE
from kills import among_peers, by_code, of, outcome, run
from test_edges import DIGITS as EDGES
from watching import watched

from fedsim.carrier import Carrier
from fedsim.cell import Cell
from fedsim.network import fluid
from fedsim.node import Node
from fedsim.progress import Progress
from fedsim.trace import ARRIVE

ALL = {"rounds": of("fedavg"), "buffer": of("fedbuff"), "edges": EDGES, "peers": among_peers("gossip"),
       "code": by_code("gc")}  # fmt: skip
SHARED = of("fedbuff", network={"tree": {"edges": 2, "backhaul_up": "20 kbit/s"}})
"""All share links that are full."""


@pytest.mark.parametrize("name", ALL)
def test_looking_on_changes_nothing(tmp_path, name) -> None:
    alone = run(tmp_path / "alone", ALL[name])
    with watched() as watchers:
        assert outcome(run(tmp_path / "watched", ALL[name])) == outcome(alone)
    assert watchers[-1].turns > 10


def broken(tmp_path, base) -> pytest.ExceptionInfo[AssertionError]:
    """What a watcher says of a run."""
    with watched(), pytest.raises(AssertionError) as said:
        run(tmp_path / "run", base)
    return said


def test_a_trace_that_goes_back_in_time(tmp_path, monkeypatch) -> None:
    arrive = Cell.arrive

    def early(cell, update):
        cell.trace.add(cell.clock.now - 1, ARRIVE, update.client, update.version)
        arrive(cell, update)

    monkeypatch.setattr(Cell, "arrive", early)
    assert "arrive of" in str(broken(tmp_path, of("fedavg")))


def test_a_client_that_is_lost_without_a_word(tmp_path, monkeypatch) -> None:
    def forget(cell, client, version, cut):
        cell.jobs.pop(client, None)

    monkeypatch.setattr(Cell, "lose", forget)
    broken(tmp_path, of("fedavg"))


def test_a_loss_that_nobody_counts(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Progress, "failed", lambda progress: None)
    broken(tmp_path, of("fedavg"))


def test_an_update_that_is_taken_twice(tmp_path, monkeypatch) -> None:
    arrive = Cell.arrive

    def twice(cell, update):
        arrive(cell, update)
        cell.aggregator.take(update)

    monkeypatch.setattr(Cell, "arrive", twice)
    broken(tmp_path, of("fedbuff"))


def test_an_update_without_weight(tmp_path, monkeypatch) -> None:
    arrived = Cell.arrived
    monkeypatch.setattr(Cell, "arrived", lambda *told: replace(arrived(*told), examples=0))
    assert "examples=0" in str(broken(tmp_path, of("fedavg")))


def test_an_update_from_the_future(tmp_path, monkeypatch) -> None:
    arrived = Cell.arrived
    monkeypatch.setattr(Cell, "arrived", lambda *told: replace(arrived(*told), version=1000))
    broken(tmp_path, of("fedavg"))


def test_staleness_below_zero(tmp_path, monkeypatch) -> None:
    arrive = Cell.arrive

    def fresh(cell, update):
        cell.aggregator.version -= 1
        arrive(cell, update)

    monkeypatch.setattr(Cell, "arrive", fresh)
    broken(tmp_path, of("fedavg"))


def test_a_link_that_carries_too_much(tmp_path, monkeypatch) -> None:
    fair = fluid.fair_rates

    def greedy(flows, links, scale):
        return {flow: (2 * units, 2 * rate) for flow, (units, rate) in fair(flows, links, scale).items()}

    monkeypatch.setattr(fluid, "fair_rates", greedy)
    assert "bytes per second carries" in str(broken(tmp_path, SHARED))


def test_bytes_that_go_astray(tmp_path, monkeypatch) -> None:
    stop = Carrier._stop

    def astray(carrier, flow, count):
        passed = stop(carrier, flow, count)
        carrier.fluid.lost -= 1 + passed
        return passed

    monkeypatch.setattr(Carrier, "_stop", astray)
    hasty = {"markov": {"on": "20 s", "off": "10 s"}}
    fleet = {"clients": 8, "devices": "constant", "availability": hasty}
    assert "bytes were opened" in str(broken(tmp_path, SHARED | {"fleet": fleet}))


def test_a_message_that_is_heard_twice(tmp_path, monkeypatch) -> None:
    carry = Node._carry

    def echoing(node, peer, subject, letter, nbytes, rank):
        yield from carry(node, peer, subject, letter, nbytes, rank)
        node.world.trace.add(node.world.clock.now, ARRIVE, node.name, node.round, nbytes, peer=peer)

    monkeypatch.setattr(Node, "_carry", echoing)
    broken(tmp_path, among_peers("gossip"))


def test_the_base_is_one_that_holds(tmp_path) -> None:
    with watched() as watchers:
        run(tmp_path / "run", BASE | {"aggregator": "fedavg"})
    assert watchers[-1].heard > 0
