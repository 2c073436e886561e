"""Traces and outages that a scenario asks for: read from files like the real ones, put on links, and run."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import networkx as nx
import numpy as np
import pytest
from worlds import devices, simulation

import fedsim
from fedsim.aggregators import FedAvg, FedBuff
from fedsim.errors import DataMissing, ScenarioError
from fedsim.fleet import Failures
from fedsim.network import TRACES, Conditions, Interrupted, Outage, Recording, Repeated, Ring, Star, Tree
from fedsim.network.capacity import Steps
from fedsim.network.traces import LineTrace, recording
from fedsim.progress import Until
from fedsim.scenario import json_schema, read
from fedsim.trace import ARRIVE, LOST, START
from fedsim.units import SECOND

POLICIES = ("stall", "reroute", "fail")


# Files ----------------------------------------------------------------------------------------------------------------


def write(folder: Path) -> Path:
    """A small file for each trace; the values tell where they come from."""
    for name in ("mahimahi_lte", "mobile_5g", "bandwidth_traces"):
        (folder / name).mkdir()
    packets = {"A-LTE-x_down": [4, 4, 0], "A-LTE-x_up": [1, 2], "A-UMTS-x_down": [3], "A-UMTS-x_up": [5],
               "B-LTE-x_down": [9], "C-LTE-x_down": [0], "C-LTE-x_up": [1]}  # fmt: skip
    np.savez(folder / "mahimahi_lte/packets_per_100ms.npz", **{n: np.array(p, np.uint16) for n, p in packets.items()})
    lines = ["trace,t_s,app,dl_kbps,ul_kbps", "v,0,Netflix,5,5", "a,7,Download,8,1", "a,8,Download,16,1",
             "a,8,Download,32,1", "a,10,Download,0,1", "b,0,Download,0,9", "c,3,Download,800,9"]  # fmt: skip
    with gzip.open(folder / "mobile_5g/irish_5g_traces.csv.gz", "wt") as file:
        file.write("\n".join(lines))
    sets = {
        "time_s": [0, 1, 2.5, 2.5, 4, 0, 2, 9, 0],
        "mbps": [9, 0.8, 1.6, 7, 0.8, 9, 0, 0, 3],
        "offsets": [0, 5, 8, 9, 9],
    }
    for name in ("hsdpa_cooked_3gp", "fcc"):
        np.savez(folder / f"bandwidth_traces/{name}.npz", **{key: np.array(value) for key, value in sets.items()})
    return folder


LTE = (Recording([60_000.0, 0.0], [200_000, 300_000]), Recording([15_000.0, 30_000.0], [100_000, 200_000]))
STREAMED = (Recording([100_000.0, 200_000.0, 100_000.0], [1_000_000, 2_500_000, 4_000_000]), None)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("mahimahi_lte", {}, [LTE]),  # who lacks a direction, or lets nothing pass, is left out
        ("mahimahi_lte", {"radio": "UMTS"}, [(Recording([45_000.0], [100_000]), Recording([75_000.0], [100_000]))]),
        ("mobile_5g", {}, [(Recording([1000.0, 3000.0, 0.0], [SECOND, 3 * SECOND, 4 * SECOND]), None),
                           (Recording([100_000.0], [SECOND]), None)]),
        ("hsdpa", {}, [STREAMED]),
        ("fcc", {}, [STREAMED]),
    ],
)  # fmt: skip
def test_recordings_are_those_of_the_file(name, arguments, expected, tmp_path):
    assert TRACES[name](folders=[write(tmp_path)], **arguments).recordings() == expected


def test_equal_rates_that_follow_each_other_are_one_step_and_rates_are_whole():
    assert recording(np.array([5.2, 4.9, 7.0, 7.0, 5.0]), np.arange(1, 6)) == Recording([5.0, 7.0, 5.0], [2, 4, 5])
    assert recording(np.array([0.2, 0.4]), np.arange(1, 3)) is None


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_without_its_file_or_with_another_is_refused_by_name(name, tmp_path):
    with pytest.raises(DataMissing, match=r"it is made of github\.com/"):
        TRACES[name](folders=[tmp_path]).recordings()
    write(tmp_path)
    for path in tmp_path.rglob("*.*"):
        path.write_bytes(b"nonsense")
    with pytest.raises(ScenarioError, match="cannot be read as"):
        TRACES[name](folders=[tmp_path]).recordings()


@pytest.mark.parametrize(("cell", "words"), [("x", "line 2"), ("-1", "0 or more"), ("nan", "0 or more")])
def test_a_bad_line_of_the_irish_file_is_named(cell, words, tmp_path):
    path = write(tmp_path) / "mobile_5g/irish_5g_traces.csv.gz"
    path.write_bytes(gzip.compress(f"trace,t_s,app,dl_kbps\na,0,Download,{cell}\n".encode()))
    with pytest.raises(ScenarioError, match=words):
        TRACES["mobile_5g"](folders=[tmp_path]).recordings()


def test_a_set_without_its_offsets_is_refused(tmp_path):
    np.savez(write(tmp_path) / "bandwidth_traces/fcc.npz", time_s=[0, 1], mbps=[1, 1])
    with pytest.raises(ScenarioError, match="has no table 'offsets'"):
        TRACES["fcc"](folders=[tmp_path]).recordings()


# Lines ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given(LineTrace):
    """Recordings that need no file."""

    source = "a test"
    pairs: list[Any] = field(default_factory=list)

    def recordings(self):
        return self.pairs


SLOW, FAST = Recording([1.0, 2.0], [SECOND, 9 * SECOND]), Recording([100.0, 200.0], [SECOND, 9 * SECOND])


def test_each_client_draws_a_recording_and_a_moment_in_it_whoever_else_there_is():
    trace = Given(pairs=[(SLOW, FAST), (FAST, None)])
    lines = trace.draw(200, seed=3)
    assert lines[:50] == trace.draw(50, seed=3)
    assert lines != trace.draw(200, seed=4)
    assert 70 < sum(up is None for _, up in lines) < 130
    assert all(down.offset == up.offset for down, up in lines if down and up)
    offsets = [down.offset for down, _ in lines if down]
    assert 0 <= min(offsets) < SECOND
    assert 8 * SECOND < max(offsets) < 9 * SECOND
    assert len(set(offsets)) == 200
    with pytest.raises(ScenarioError, match="no recording in which anything passes"):
        Given().draw(1, seed=1)


@pytest.mark.parametrize("network", [Star(), Tree(edges=2), Ring(nodes=3), Ring(nodes=3, duplex="half")])
def test_a_trace_takes_the_place_of_what_the_devices_say_of_their_lines_and_of_nothing_else(network):
    graph, before = (network.graph([5e6, 6e6, 7e6], [1e6, 2e6, 3e6]) for _ in range(2))
    Conditions(trace=Given(pairs=[(SLOW, None)])).apply(graph, clients=3, seed=1)
    changed = {
        (u, v): capacity for u, v, capacity in graph.edges(data="capacity") if capacity != before[u][v]["capacity"]
    }
    assert {client for _, client in changed} == {0, 1, 2}
    assert len(changed) == 3
    assert all(capacity.recording == SLOW for capacity in changed.values())
    assert "on_outage" not in graph.graph


@pytest.mark.parametrize("graph", [Ring().among(4), Ring(duplex="half").among(4), Ring(nodes=2).among(2)])
def test_where_clients_have_no_lines_there_is_nothing_to_trace(graph):
    with pytest.raises(ScenarioError, match="client 0 has no line of its own"):
        Conditions(trace=Given(pairs=[(SLOW, None)])).apply(graph, clients=len(graph), seed=1)


# Outages --------------------------------------------------------------------------------------------------------------


def down(graph: nx.Graph, **outage) -> set[tuple[object, object]]:
    """Which edges an outage takes."""
    return set(Outage(start=SECOND, end=2 * SECOND, **outage).links(graph))


def both(*pairs) -> set[tuple[object, object]]:
    return {ends for one, other in pairs for ends in ((one, other), (other, one))}


def test_between_two_neighbours_both_directions_are_down():
    star = Star().graph([1.0] * 3, [1.0] * 3)
    assert down(star, between=("hub", 2)) == down(star, between=(2, "hub")) == both(("hub", 2))
    assert down(star, between=(1, 2)) == set()


def test_on_a_half_duplex_link_the_wire_is_down():
    graph = Ring(nodes=4, duplex="half").graph([1.0] * 4, [1.0] * 4)
    [(one, other)] = down(graph, between=("router 1", "router 2"))
    assert str(one).startswith("wire ")
    assert {graph[one][other]["wire"]} <= {("router 1", "router 2"), ("router 2", "router 1")}
    peers = Ring(duplex="half").among(4)
    assert {frozenset(link) for link in down(peers, between=(2, 1))} == {frozenset((1, 2))}


def test_a_split_takes_all_links_between_groups_and_whoever_is_not_named_goes_with_the_nearest():
    peers = nx.DiGraph(nx.path_graph(7))
    assert down(peers, split=((0,), (6,))) == both((3, 4))  # 3 is as far from both: the first group has it
    assert down(peers, split=((6,), (0,))) == both((2, 3))
    assert down(peers, split=((0, 4), (2,))) == both((1, 2), (2, 3))
    star = Star().graph([1.0] * 4, [1.0] * 4)
    assert down(star, split=(("server", 0), (1, 2))) == both(("hub", 1), ("hub", 2))
    assert down(star, split=((1, 2), ("server",))) == both(("hub", "server"))
    tree = Tree(edges=2).graph([1.0] * 4, [1.0] * 4)
    assert down(tree, split=(("server",), ("edge 1",))) == both(("hub", "edge 1"))


def test_outages_of_one_link_are_put_together_on_what_it_was():
    graph = Star().graph([8.0, 9.0], [1.0] * 2)
    outages = tuple(Outage(start=a * SECOND, end=b * SECOND, between=("hub", 0)) for a, b in ((4, 6), (1, 2), (5, 7)))
    Conditions(trace=Given(pairs=[(SLOW, None)]), outages=outages, on_outage="fail").apply(graph, 2, seed=1)
    for ends in both(("hub", 0)):
        assert graph.edges[ends]["capacity"].outages == [(1.0, 2.0), (4.0, 7.0)]
    assert graph.edges["hub", 0]["capacity"].levels == {0.0, 1.0, 2.0}
    assert graph.edges[0, "hub"]["capacity"].at(3.0) == (1.0, 4.0)
    assert isinstance(graph.edges["hub", 1]["capacity"], Repeated)
    assert graph.graph["on_outage"] == "fail"


# A federation, by hand: 1,000 bytes at 1,000 bytes per second each way, a training of 1 s


def alone(policy: str, *outages: tuple[float, float], seconds: float = 20, **options):
    """One client of FedAvg, whose line is down at these times (seconds)."""
    down = tuple(Outage(start=round(a * SECOND), end=round(b * SECOND), between=("hub", 0)) for a, b in outages)
    found = simulation(
        lambda params, roster: FedAvg(params, roster, cohort=1),
        devices(1.0, rate=1000.0), Until(time=round(seconds * SECOND)),
        links=Conditions(outages=down, on_outage=policy), executor="null", **options,
    )  # fmt: skip
    found.run()
    return [(row[0] / SECOND, row[1], row[4]) for row in found.trace.of(START, ARRIVE, LOST)][:4]


@pytest.mark.parametrize("policy", ["stall", "reroute"])
def test_a_client_whose_line_fails_in_its_upload_is_late(policy):
    """500 bytes have passed by 2.5 s; in a star there is no other way, so the rest waits until 10 s."""
    assert alone(policy, (2.5, 10.0)) == [(0, START, 0), (10.5, ARRIVE, 1000), (10.5, START, 0), (13.5, ARRIVE, 1000)]


def test_a_client_whose_line_fails_can_be_asked_again_when_it_has_recovered():
    lost = alone("fail", (2.5, 3.0), failures=Failures(recovery=4 * SECOND))
    assert lost == [(0, START, 0), (2.5, LOST, 500), (6.5, START, 0), (9.5, ARRIVE, 1000)]


def test_a_client_that_is_asked_while_its_line_is_down_is_lost_at_once_and_not_asked_for_ever():
    lost = alone("fail", (0.0, 6.0), failures=Failures(recovery=4 * SECOND))
    assert lost == [(0, START, 0), (0, LOST, 0), (4, START, 0), (4, LOST, 0)]


def test_a_line_without_failures_is_the_same_under_any_policy():
    assert alone("stall") == alone("fail", (300.0, 400.0)) == alone("reroute", (300.0, 400.0))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_timeline_is_the_same_whoever_computes_the_numbers(policy):
    """Six clients on lines that change all the time, two of them cut off for a while, at one server's line."""
    rates = [Recording([float(r) for r in (900, 0, 300, 1500)], [400_000, 500_000, 1_100_000, 1_700_000 + extra])
             for extra in (0, 123_457)]  # fmt: skip
    split = Outage(start=5 * SECOND, end=11 * SECOND, split=(("server",), (1, 4)))
    conditions = Conditions(
        trace=Given(pairs=[(rates[0], rates[1]), (rates[1], None)]), outages=(split,), on_outage=policy
    )

    def rows(executor: str):
        found = simulation(
            lambda params, roster: FedBuff(params, roster, concurrency=4, goal=2),
            devices(*(0.3, 0.5, 0.9, 1.3, 0.4, 0.6), rate=800.0), Until(time=60 * SECOND), executor=executor,
            links=conditions, star=Star(latency=20_000, server_up=2000.0, server_down=2000.0),
            failures=Failures(during=0.05, recovery=SECOND),
        )  # fmt: skip
        found.run()
        found.world.carrier.fluid.check()
        return found.trace.of(*range(11)), found.progress.down, found.progress.up

    null = rows("null")
    assert len([row for row in null[0] if row[1] == ARRIVE]) > 50
    assert null == rows("inline") == rows("stacked") == rows("null")


# A scenario -----------------------------------------------------------------------------------------------------------


SCENARIO: dict[str, Any] = {
    "until": {"time": "10 min"},
    "data": {"digits": {"partition": "iid"}},
    "model": "logistic",
    "fleet": {"clients": 6, "devices": {"linear": {"slowest": "20 s", "fastest": "10 s"}}},
    "local": {"steps": 2, "batch": 8, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "executor": "null",
    "evaluate": {"every": "5 min"},
}


def run(folder: Path, **changes):
    return fedsim.run({**SCENARIO, **changes}, out=folder / "runs", data=folder, picture=False)


def test_a_scenario_with_links_runs_and_says_what_it_used(tmp_path):
    outages = [{"between": ["hub", 2], "start": "30 s", "end": "2 min"},
               {"split": [["server", 0], [1]], "start": "1 min", "end": "3 min"}]  # fmt: skip
    links = {"trace": "mahimahi_lte", "outages": outages, "on_outage": "fail"}
    plain, found = run(tmp_path), run(write(tmp_path), links=links)
    assert "links" not in plain.scenario
    assert found.scenario["links"] == {**links, "trace": {"mahimahi_lte": {"radio": "LTE"}}}
    assert found.receipt["counts"]["lost"] > plain.receipt["counts"]["lost"] == 0
    lost = found.trace[found.trace.kind == "lost"]
    assert set(lost.client) == {1, 2}
    again = run(tmp_path, links=found.scenario["links"])
    assert again.receipt["trace"] == found.receipt["trace"]
    jsonschema.validate({**SCENARIO, "links": links}, json_schema())


def test_an_edge_that_cannot_be_reached_is_asked_again(tmp_path):
    """Of two edges the second is cut off at the start; it works as soon as it has recovered."""
    outages = [{"between": ["hub", "edge 1"], "start": "0 s", "end": "50 s"}]
    found = run(
        tmp_path,
        network={"tree": {"edges": 2}}, edges={"aggregator": "fedavg"},
        links={"outages": outages, "on_outage": "fail"},
    )  # fmt: skip
    rows = found.trace[(found.trace.client == 7) & found.trace.kind.isin(["lost", "arrive"])]
    assert list(rows.kind)[:2] == ["lost", "arrive"]
    first, second = list(rows.time)[:2]
    assert first == 0
    assert 60 < second / SECOND < 120
    assert "lost" not in list(rows.kind)[1:]


@pytest.mark.parametrize(
    ("links", "words"),
    [
        ({"outages": [{"between": ["hub", 77], "start": "1 s", "end": "2 s"}]}, "no node 77 in the network"),
        ({"outages": [{"split": [["hub"], ["sever"]], "start": "1 s", "end": "2 s"}]}, "'sever'.*did you mean server"),
        ({"outages": [{"between": [0, 1], "start": "1 s", "end": "2 s"}]}, "no link between 0 and 1"),
        ({"outages": [{"between": [0, True], "start": "1 s", "end": "2 s"}]}, r"links\.outages\.0\.between\.1"),
        ({"outages": [{"between": [0, "hub"], "start": "2 s", "end": "2 s"}]}, "0: an outage must end after its start"),
        ({"outages": [{"between": [0, 0], "start": "1 s", "end": "2 s"}]}, "names a node twice"),
        ({"outages": [{"split": [[0], [1, 0]], "start": "1 s", "end": "2 s"}]}, "names a node twice"),
        ({"outages": [{"split": [[0]], "start": "1 s", "end": "2 s"}]}, "two groups or more"),
        ({"outages": [{"split": [[0], []], "start": "1 s", "end": "2 s"}]}, "a node or more in each"),
        ({"outages": [{"start": "1 s", "end": "2 s"}]}, "either between or split"),
        ({"outages": [{"split": [[0], [1]], "between": [0, 1], "start": "1 s", "end": "2 s"}]}, "between or split"),
        ({"outages": [{"between": [0, "hub"], "start": "1 s", "ned": "2 s"}]}, "no key 'ned' here; did you mean end"),
        ({"outages": [{"between": [0, "hub"], "start": 1, "end": "2 s"}]}, r"outages\.0\.start: expected a number"),
        ({"on_outage": "wait"}, "'stall', 'reroute' or 'fail'"),
        ({"trace": "mahimahi"}, "no trace 'mahimahi' here; did you mean mahimahi_lte"),
        ({"trace": {"mahimahi_lte": {"radio": "5G"}}}, "'LTE', 'UMTS' or 'EVDO'"),
        ({"trace": "fcc"}, "is in no data folder"),
        ({"trcae": "fcc"}, "no key 'trcae' here; did you mean trace"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_runs(links, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDSIM_DATA", raising=False)
    with pytest.raises(ScenarioError, match=words):
        run(tmp_path, links=links)
    assert not (tmp_path / "runs").exists()


def test_participation_is_not_known_where_links_fail(tmp_path):
    changes: dict[str, Any] = {"aggregator": {"fedstale": {"cohort": "all", "known_participation": True}}}
    outage = {"between": ["hub", 2], "start": "30 s", "end": "2 min"}
    run(tmp_path, **changes, links={"outages": [outage]})
    with pytest.raises(ScenarioError, match="participation"):
        run(tmp_path, **changes, links={"outages": [outage], "on_outage": "fail"})


def test_links_that_a_scenario_does_not_mention_leave_it_as_it_was():
    [plain], [empty] = read(SCENARIO), read({**SCENARIO, "links": {}})
    assert "links" not in plain.resolved
    assert json.dumps(empty.resolved["links"]) == json.dumps({"outages": [], "on_outage": "stall"})
    graph = Star().graph([1.0], [1.0])
    Conditions().apply(graph, 1, seed=1)
    assert not any(isinstance(c, Interrupted | Repeated | Steps) for *_, c in graph.edges(data="capacity"))
