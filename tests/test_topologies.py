"""Graphs that a scenario can name: connected, the same for the same seed in any process, and true to their files."""

from __future__ import annotations

import gzip
import io
import os
import random
import subprocess
import sys
import tarfile
from collections import Counter
from hashlib import sha256
from math import inf, pi
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

import fedsim
from fedsim.data import data_folders
from fedsim.data.folders import find
from fedsim.errors import DataMissing, ScenarioError
from fedsim.network import NETWORKS, Routes, Shape, finish_times, routes
from fedsim.network.generated import (
    BarabasiAlbert,
    Complete,
    ErdosRenyi,
    Exponential,
    Grid,
    Ring,
    WattsStrogatz,
)
from fedsim.network.measured import RoundTrips
from fedsim.network.recorded import CROSS_SILO, CrossSilo, GraphFile, TopologyZoo
from fedsim.network.shapes import central
from fedsim.rng import stream

ROOT = Path(__file__).parents[1]
FOLDERS = [ROOT / folder for folder in data_folders(None, None)]
CLIENTS = 6

SHAPES: dict[str, dict[str, Any]] = {
    "ring": {},
    "grid": {"rows": 2, "columns": 3},
    "complete": {},
    "exponential": {},
    "erdos_renyi": {"p": 0.5},
    "watts_strogatz": {"k": 4, "p": 0.5},
    "barabasi_albert": {"m": 2},
    "file": {"path": "mine.graphml", "capacity_attribute": "speed", "distance_attribute": "km"},
    "topology_zoo": {"name": "Tiny"},
    "cross_silo": {"name": "gaia"},
    "rtt": {"name": "seattle99"},
}
"""One of each, fit for six peers."""
RANDOM = ("erdos_renyi", "watts_strogatz", "barabasi_albert")

EQUATOR_AND_POLE = {"a": (0.0, 0.0), "b": (0.0, 90.0), "c": (90.0, 0.0)}


# Small files in place of the real ones --------------------------------------------------------------------------------


def mesh(nodes: int, **attributes: Any) -> nx.Graph:
    graph = nx.complete_graph(nodes)
    for *_, link in graph.edges(data=True):
        link.update(attributes)
    return nx.relabel_nodes(graph, {node: f"city {node}" for node in graph})


def zoo() -> nx.MultiGraph:
    """Three places and a fourth without any; one link is double, one is a loop, and an island lies apart."""
    graph = nx.MultiGraph()
    for name, (latitude, longitude) in EQUATOR_AND_POLE.items():
        graph.add_node(name, label=f"{name}!", Latitude=latitude, Longitude=longitude)
    for name in "defg":
        graph.add_node(name, label="nowhere")
    graph.add_edge("a", "b", LinkSpeedRaw=8e6)
    graph.add_edge("a", "b", LinkSpeedRaw=16e6)
    graph.add_edge("a", "a", LinkSpeedRaw=8e6)
    for one, other in ("bc", "ca", "cd", "de", "ef"):
        graph.add_edge(one, other)
    return graph


def archive(path: Path, name: str, graph: nx.Graph) -> None:
    file = io.BytesIO()
    nx.write_graphml(graph, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo(f"graphml/{name}.graphml")
        entry.size = len(file.getvalue())
        tar.addfile(entry, io.BytesIO(file.getvalue()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data folder with a small file of each kind."""
    folder = tmp_path_factory.mktemp("data")
    archive(folder / "topology_zoo" / "graphml.tar.gz", "Tiny", zoo())
    silo, trips = folder / "crosssilo_graphs", folder / "rtt_matrices"
    silo.mkdir()
    trips.mkdir()
    nx.write_gml(mesh(7, distance=1000.0, capacity=8e8), silo / "gaia.gml")
    nx.write_gml(mesh(7, distance=1000.0), silo / "exodus.gml")
    measured = np.random.default_rng(1).integers(5, 300, (3, 8, 8)).astype(np.uint16)
    np.savez(trips / "seattle99.npz", rtt_centi_s=measured * ~np.eye(8, dtype=bool))
    nx.write_graphml(mesh(6, speed=8e6, km=100.0), folder / "mine.graphml")
    return folder


def shape(name: str, folder: Path, **changes: Any) -> Shape:
    given = {"folders": [folder]} if name in ("file", "topology_zoo", "cross_silo", "rtt") else {}
    made = NETWORKS[name](**SHAPES[name], **{"seed": 1} | changes, **given)
    assert isinstance(made, Shape)
    return made


# Laws -----------------------------------------------------------------------------------------------------------------


def test_every_shape_is_in_the_table():
    assert set(SHAPES) == set(NETWORKS) - {"star", "tree"}


@pytest.mark.parametrize("name", SHAPES)
def test_routers_are_numbered_connected_and_their_links_priced(name, folder):
    routers = shape(name, folder, capacity=5e6).routers(CLIENTS)
    assert list(routers) == list(range(len(routers)))
    assert nx.is_connected(routers)
    assert not list(nx.selfloop_edges(routers))
    for *_, link in routers.edges(data=True):
        assert link.keys() == {"capacity", "latency"}
        assert 0 < link["capacity"] < inf
        assert 0 < link["latency"] < inf


@pytest.mark.parametrize("duplex", ["full", "half"])
@pytest.mark.parametrize("name", SHAPES)
def test_with_a_server_every_client_has_its_own_line(name, duplex, folder):
    clients = 2 * CLIENTS
    made = shape(name, folder, duplex=duplex, access_latency=7000)
    downs, ups = [10.0 + client for client in range(clients)], [1.0 + client for client in range(clients)]
    graph = made.graph(downs, ups)
    routers = len(made.routers(clients))
    assert nx.is_strongly_connected(graph)
    names = {"server"} | {f"router {node}" for node in range(routers)}
    assert len(names & set(graph)) == routers
    for client in range(clients):
        [[above, up]] = graph[client].items()
        assert up == {"capacity": ups[client], "latency": 0.007}
        assert graph[above][client] == {"capacity": downs[client], "latency": 0.007}
    stands = Counter(next(iter(graph[client])) for client in range(clients))
    assert max(stands.values()) - min(stands.values()) <= 1
    assert len(stands) == min(routers, clients)


@pytest.mark.parametrize("name", SHAPES)
def test_among_peers_the_clients_are_the_nodes(name, folder):
    full, half = (shape(name, folder, duplex=duplex).among(CLIENTS) for duplex in ("full", "half"))
    assert list(full) == list(half) == list(range(CLIENTS))
    assert isinstance(full, nx.DiGraph)
    assert not half.is_directed()
    assert nx.is_connected(half)
    assert full.number_of_edges() == 2 * half.number_of_edges()
    for one, other, link in half.edges(data=True):
        assert full[one][other] == full[other][one] == link


@pytest.mark.parametrize("name", SHAPES)
def test_peers_may_have_lines_of_their_own(name, folder):
    downs, ups = [2e6] * CLIENTS, [1e6] * CLIENTS
    full, half = (
        shape(name, folder, duplex=duplex, access_latency=7000).serverless(downs, ups) for duplex in ("full", "half")
    )
    bare = Routes(shape(name, folder).among(CLIENTS))
    for graph in (full, half):
        assert graph[3]["router 3"] == {"capacity": 1e6, "latency": 0.007}
        assert graph["router 3"][3] == {"capacity": 2e6, "latency": 0.007}
        assert "server" not in graph
    expected = [f"router {node}" for node in bare.path(0, CLIENTS - 1)]
    assert list(Routes(full).path(0, CLIENTS - 1)) == [0, *expected, CLIENTS - 1]


@pytest.mark.parametrize("name", SHAPES)
def test_the_same_seed_gives_the_same_graph_and_nothing_global_is_drawn(name, folder):
    before = random.getstate(), np.random.get_state()[1].tolist()
    first, again = (shape(name, folder, attach="drawn").graph([1.0] * 30, [1.0] * 30) for _ in range(2))
    assert nx.utils.graphs_equal(first, again)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    others = [shape(name, folder, seed=seed).routers(30).edges for seed in range(2, 5)]
    drawn = {str(sorted(edges)) for edges in others}
    assert len(drawn) == (3 if name in RANDOM else 1)


def digest(folder: str) -> str:
    """Of every shape's graph, node and edge order included, and of the ways of its transfers."""
    said = []
    for name in SHAPES:
        graph = shape(name, Path(folder), attach="drawn").graph([1.0] * 12, [1.0] * 12)
        ways = Routes(graph)
        said += [list(graph.edges(data=True)), [ways.path("server", client) for client in range(12)]]
    return sha256(repr(said).encode()).hexdigest()


def test_graphs_and_routes_are_the_same_in_any_process(folder):
    code = "import sys; from test_topologies import digest; print(digest(sys.argv[1]))"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    found = {digest(str(folder))}
    for hash_seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", code, str(folder)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        found.add(done.stdout.strip())
    assert len(found) == 1


SMALL = {
    "seed": 3,
    "until": {"versions": 2},
    "data": "digits",
    "model": {"mlp": {"hidden": [4]}},
    "fleet": {"clients": 9, "devices": "fedscale"},
    "local": {"steps": 1, "batch": 8, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {"fedbuff": {"concurrency": 9, "goal": 3}},
    "evaluate": {"every": "1 h"},
    "executor": "null",
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_small_federation_runs_over_each(name, folder, tmp_path):
    network = {name: {**SHAPES[name], "attach": "drawn", "duplex": "half"}}
    run = fedsim.run({**SMALL, "network": network}, out=tmp_path, data=folder, picture=False)
    assert run.receipt["counts"]["versions"] == 2
    assert run.receipt["counts"]["updates"] >= 6


# Shapes by hand -------------------------------------------------------------------------------------------------------


def links(graph: nx.Graph) -> list[tuple[int, int]]:
    return sorted({(min(edge), max(edge)) for edge in graph.edges})


@pytest.mark.parametrize(
    ("made", "nodes", "expected"),
    [
        (Ring(), 4, [(0, 1), (0, 3), (1, 2), (2, 3)]),
        (Ring(), 2, [(0, 1)]),
        (Ring(), 1, []),
        (Grid(rows=2, columns=3), 6, [(0, 1), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (4, 5)]),
        (Grid(rows=1, columns=3, wrap=True), 3, [(0, 1), (0, 2), (1, 2)]),
        (Complete(), 3, [(0, 1), (0, 2), (1, 2)]),
        (Exponential(), 5, [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]),
        (Exponential(), 2, [(0, 1)]),
        (Exponential(), 1, []),
        (ErdosRenyi(p=1), 3, [(0, 1), (0, 2), (1, 2)]),
        (ErdosRenyi(p=0), 1, []),
        (WattsStrogatz(k=2, p=0), 4, [(0, 1), (0, 3), (1, 2), (2, 3)]),
    ],
)
def test_who_is_linked_to_whom(made, nodes, expected):
    assert links(made.among(nodes)) == expected


def test_nine_nodes_of_an_exponential_graph_look_one_two_four_and_eight_ahead():
    assert sorted(Exponential().among(16)[0]) == [1, 2, 4, 8, 12, 14, 15]


def test_a_torus_gives_each_node_four_links():
    assert {degree for _, degree in Grid(rows=3, columns=4, wrap=True).routers(12).degree} == {4}


def test_random_graphs_have_the_expected_numbers_of_links():
    drawn = [ErdosRenyi(p=0.3, seed=seed).routers(40).number_of_edges() for seed in range(30)]
    assert np.mean(drawn) == pytest.approx(0.3 * 40 * 39 / 2, abs=4 * np.sqrt(780 * 0.21 / 30))
    assert WattsStrogatz(k=6, p=0.4, seed=2).routers(40).number_of_edges() == 40 * 3
    assert BarabasiAlbert(m=3, seed=2).routers(40).number_of_edges() == 3 + (40 - 4) * 3


def test_what_is_not_connected_is_drawn_again_and_not_for_ever():
    sparse = [ErdosRenyi(p=0.12, seed=seed) for seed in range(10)]
    firsts = [nx.gnp_random_graph(20, 0.12, seed=stream(seed, "network", 0)) for seed in range(10)]
    assert not all(nx.is_connected(first) for first in firsts)  # so that somebody was drawn again
    assert all(nx.is_connected(made.routers(20)) for made in sparse)
    with pytest.raises(ScenarioError, match="not connected in 100 draws"):
        ErdosRenyi(p=0).routers(2)
    firsts = [nx.watts_strogatz_graph(30, 2, 1.0, seed=stream(seed, "network", 0)) for seed in range(10)]
    assert not all(nx.is_connected(first) for first in firsts)
    assert all(nx.is_connected(WattsStrogatz(k=2, p=1.0, seed=seed).routers(30)) for seed in range(10))


@pytest.mark.parametrize(
    ("made", "clients", "words"),
    [
        (Grid(rows=2, columns=3), 7, "6 nodes for 7 peers"),
        (Ring(nodes=8), 7, "8 nodes for 7 peers"),
        (WattsStrogatz(k=4), 4, "needs more nodes than 4"),
        (BarabasiAlbert(m=3), 3, "needs more nodes than 3"),
    ],
)
def test_what_does_not_fit_is_refused(made, clients, words):
    with pytest.raises(ScenarioError, match=words):
        made.among(clients)


# Where the server and the clients stand -------------------------------------------------------------------------------


def test_the_server_stands_in_the_middle_by_latency():
    path = nx.path_graph(5)
    nx.set_edge_attributes(path, {edge: {"latency": 0.001} for edge in path.edges})
    assert central(path) == 2
    path[0][1]["latency"] = 0.9  # two groups, 0 and the rest: still the middle of the larger
    assert central(path) == 2
    path[3][4]["latency"] = path[2][3]["latency"] = 2.0
    assert central(path) == 2
    path[1][2]["latency"] = 0.0
    assert central(path) == 1  # as close as 2, and comes first


def test_equals_are_equal_whatever_floats_say():
    for nodes in (3, 10, 31):
        assert central(Ring(latency=100_001).routers(nodes)) == 0


def test_too_many_routers_must_say_where_the_server_stands():
    with pytest.raises(ScenarioError, match="say where the server stands: 5000"):
        Ring().graph([1.0] * 5000, [1.0] * 5000)
    assert len(Ring(server=7).graph([1.0] * 5000, [1.0] * 5000)) == 10_000


def test_the_server_by_number_and_by_label(folder):
    assert set(Ring(server=2).graph([1.0] * 4, [1.0] * 4)["server"]) == {"router 1", "router 3", 2}
    for server in ("b!", 1):
        graph = shape("topology_zoo", folder, server=server).graph([1.0] * 6, [1.0] * 6)
        assert 1 in graph["server"]
    with pytest.raises(ScenarioError, match="no router 'city 9'; did you mean city"):
        shape("cross_silo", folder, server="city 9").graph([1.0], [1.0])
    with pytest.raises(ScenarioError, match=r"'nowhere' may be any of the routers \[3, 4, 5\]"):
        shape("topology_zoo", folder, server="nowhere").graph([1.0], [1.0])


def test_drawn_clients_stand_anywhere_and_each_by_its_own_address():
    few, many = (Ring(nodes=4, attach="drawn", seed=5).graph([1.0] * n, [1.0] * n) for n in (10, 400))
    assert [list(few[client]) for client in range(10)] == [list(many[client]) for client in range(10)]
    stands = Counter(next(iter(many[client])) for client in range(400))
    assert len(stands) == 4
    assert all(100 - 4 * 8.7 < number < 100 + 4 * 8.7 for number in stands.values())  # four standard deviations


def test_half_duplex_is_shared_by_both_directions_in_either_use():
    for duplex, seconds in (("full", 1.5), ("half", 2.5)):
        made = Ring(nodes=2, server=0, capacity=100.0, latency=500_000, duplex=duplex)
        graph = made.graph([inf, inf], [inf, inf])
        ways = Routes(graph)
        transfers = [{"path": ways.path(*ends), "bytes": 100, "start": 0.0} for ends in ((1, "server"), ("server", 1))]
        assert finish_times(graph, transfers) == [seconds, seconds]
        transfers = [{"path": path, "bytes": 100, "start": 0.0} for path in ((0, 1), (1, 0))]
        assert finish_times(made.among(2), transfers) == [seconds, seconds]


# Files ----------------------------------------------------------------------------------------------------------------


def test_the_zoo_by_hand(folder):
    graph = shape("topology_zoo", folder, latency=1234, capacity=9.0).routers(3)
    assert [label for _, label in graph.nodes(data="label")] == ["a!", "b!", "c!", *["nowhere"] * 3]  # no island
    quarter = 6371 * pi / 2 * 5e-6
    assert graph[0][1] == {"capacity": 3e6, "latency": pytest.approx(quarter, rel=1e-12)}  # two links as one
    assert graph[1][2] == {"capacity": 9.0, "latency": pytest.approx(quarter, rel=1e-12)}
    assert graph[2][3] == {"capacity": 9.0, "latency": 0.001234}
    assert links(graph) == [(0, 1), (0, 2), (1, 2), (2, 3), (3, 4), (4, 5)]


def test_fewer_peers_than_nodes_are_those_around_the_centre(tmp_path):
    nx.write_gml(nx.path_graph(7), tmp_path / "path.gml")
    made = GraphFile(path=tmp_path / "path.gml", latency=1000)
    peers = made.among(4)
    assert [label for _, label in peers.nodes(data="label")] == ["1", "2", "3", "4"]
    assert links(peers) == [(0, 1), (1, 2), (2, 3)]
    with pytest.raises(ScenarioError, match="7 nodes for 8 peers"):
        made.among(8)


def test_cross_silo_by_hand(folder):
    graph = shape("cross_silo", folder).routers(3)
    assert graph[0][1] == {"capacity": 1e8, "latency": pytest.approx(0.0125, rel=1e-12)}
    graph = CrossSilo(name="exodus", folders=[folder], capacity=3.0).routers(3)
    assert graph[5][6]["capacity"] == 3.0


def test_ones_own_file_with_its_units(folder):
    def link(**changes: Any) -> tuple[float, float]:
        made = GraphFile(path=Path("mine.graphml"), folders=[folder], capacity=7.0, **changes)
        return tuple(made.routers(1)[0][1].values())

    assert link() == (7.0, 0.0)
    assert link(latency=2000) == (7.0, 0.002)
    assert link(capacity_attribute="speed") == (1e6, 0.0)
    assert link(capacity_attribute="speed", capacity_unit="kB/s") == (8e9, 0.0)
    assert link(latency_attribute="km") == (7.0, 0.1)
    assert link(latency_attribute="km", latency_unit="us", latency=1000) == pytest.approx((7.0, 0.0011))
    assert link(distance_attribute="km") == pytest.approx((7.0, 0.0005))
    assert link(distance_attribute="km", ms_per_km=0.0085, latency=4000) == pytest.approx((7.0, 0.00485))


def test_gml_is_read_as_well_as_graphml(folder):
    gml, graphml = (
        GraphFile(path=path, distance_attribute=name, folders=[folder]).routers(1)
        for path, name in ((Path("crosssilo_graphs/gaia.gml"), "distance"), (Path("mine.graphml"), "km"))
    )
    assert (len(gml), len(graphml)) == (7, 6)
    assert gml.nodes[6]["label"] == "city 6"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"latency_attribute": "km", "distance_attribute": "km"}, "not both"),
        ({"capacity_unit": "Mbits/s"}, "did you mean Mbit/s"),
        ({"latency_unit": "msec"}, "no unit 'msec'"),
        ({"capacity_attribute": "sped"}, "no attribute 'sped'; did you mean speed"),
        ({"distance_attribute": "word"}, "word is 'far': expected a number of at least 0"),
        ({"capacity_attribute": "none"}, "none is 0: expected a number above 0"),
        ({"path": Path("mine.txt")}, r"\.graphml or \.gml"),
        ({"path": Path("broken.graphml")}, "broken.graphml cannot be read"),
        ({"path": Path("broken.gml")}, "broken.gml cannot be read"),
        ({"path": Path("directed.graphml")}, "directed: expected an undirected"),
        ({"path": Path("empty.graphml")}, "no nodes"),
    ],
)
def test_a_file_that_will_not_do_is_named(arguments, words, tmp_path):
    nx.write_graphml(mesh(3, km=1.0, speed=2.0, word="far", none=0), tmp_path / "mine.graphml")
    nx.write_graphml(nx.DiGraph([(0, 1)]), tmp_path / "directed.graphml")
    nx.write_graphml(nx.Graph(), tmp_path / "empty.graphml")
    for name in ("broken.graphml", "broken.gml", "mine.txt"):
        (tmp_path / name).write_text("<graph [")
    with pytest.raises(ValueError, match=words):
        GraphFile(**{"path": Path("mine.graphml"), "folders": [tmp_path], **arguments}).routers(1)


def test_round_trips_by_hand(tmp_path):
    trips = np.zeros((2, 3, 3), np.uint16)
    trips[0, 0, 1], trips[0, 1, 0], trips[1, 0, 1] = 100, 200, 0
    trips[1, 1, 0] = 600
    trips[:, 0, 2] = trips[:, 2, 0] = trips[0, 1, 2] = trips[0, 2, 1] = 1000
    np.savez(tmp_path / "seattle99.npz", rtt_centi_s=trips)
    (tmp_path / "rtt_matrices").mkdir()
    (tmp_path / "seattle99.npz").rename(tmp_path / "rtt_matrices" / "seattle99.npz")

    def latency(time_slice: int | None) -> list[float]:
        graph = RoundTrips(name="seattle99", time_slice=time_slice, folders=[tmp_path]).among(3)
        return [graph[one][other]["latency"] for one, other in ((0, 1), (0, 2), (1, 2))]

    assert latency(None) == pytest.approx([1.5, 5.0, 5.0])  # the mean of 1, 2 and 6 seconds, halved
    assert latency(0) == pytest.approx([0.75, 5.0, 5.0])
    assert latency(1) == pytest.approx([3.0, 5.0, 5.0])  # 1 - 2 was not measured then
    with pytest.raises(ScenarioError, match="slices 0 to 1, not 2"):
        latency(2)


def test_hosts_do_not_forward(tmp_path):
    trips = np.array([[[0, 10, 1000], [10, 0, 10], [1000, 10, 0]]], np.uint16)  # 0 - 1 - 2 is the quicker way
    (tmp_path / "rtt_matrices").mkdir()
    np.savez(tmp_path / "rtt_matrices" / "seattle99.npz", rtt_centi_s=trips)
    made = RoundTrips(name="seattle99", server=0, folders=[tmp_path])
    graph = made.graph([1.0] * 3, [1.0] * 3)
    assert Routes(graph).path("server", 2) == ("server", "router 2", 2)
    assert graph["server"]["router 2"]["latency"] == 5.0
    assert set(made.among(3)[0]) == {1, 2}
    assert "router 1" not in graph["router 2"]
    among = Routes(made.among(3))
    assert (among.path(0, 2), among.path(2, 0), among.path(1, 1)) == ((0, 2), (2, 0), (1,))
    with pytest.raises(ValueError, match="no link from 0 to 2, and nobody forwards"):
        Routes(nx.Graph([(0, 1), (1, 2), (2, 3), (3, 0)], forwards=False)).path(0, 2)
    lines = made.serverless([2.0] * 3, [1.0] * 3)
    assert Routes(lines).path(0, 2) == (0, "router 0", "router 2", 2)
    assert lines[0]["router 0"] == {"capacity": 1.0, "latency": 0.0}
    assert 1 in RoundTrips(name="seattle99", folders=[tmp_path]).graph([1.0] * 3, [1.0] * 3)["server"]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"rings": {}}, "did you mean ring"),
        ({"topology_zoo": {"name": "Tinny"}}, "no 'Tinny'; did you mean Tiny"),
        ({"cross_silo": {"name": "gaja"}}, "did you mean gaia"),
        ({"rtt": {"name": "seattle"}}, "did you mean seattle99"),
        ({"cross_silo": {"name": "ebone"}}, "ebone.gml is in no data folder"),
        ({"erdos_renyi": {"p": 0}}, "p = 0 was not connected in 100 draws"),
        ({"erdos_renyi": {"p": 1.5}}, "p: "),
        ({"watts_strogatz": {"k": 3}}, "multiple of 2"),
        ({"grid": {"rows": 2}}, "columns: is missing"),
        ({"ring": {"capacity": "0 B/s"}}, "greater than 0"),
        ({"ring": {"duplex": "quarter"}}, "'full' or 'half'"),
        ({"ring": {"server": True}}, "other than true or false"),
        ({"file": {"path": "yours.gml"}}, "yours.gml is in no data folder"),
    ],
)
def test_a_scenario_that_asks_for_the_impossible_is_told_so(network, words, folder, tmp_path, monkeypatch):
    monkeypatch.delenv("FEDSIM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)  # so that only the small files are found
    with pytest.raises(ScenarioError, match=words):
        fedsim.run({**SMALL, "network": network}, out=tmp_path, data=folder, picture=False)
    assert not list(tmp_path.iterdir())


def test_broken_archives_and_matrices_are_named(tmp_path):
    for name in ("topology_zoo/graphml.tar.gz", "rtt_matrices/seattle99.npz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(gzip.compress(b"no such thing")[:-3])
    for made in (TopologyZoo(name="Abilene", folders=[tmp_path]), RoundTrips(name="seattle99", folders=[tmp_path])):
        with pytest.raises(ScenarioError, match="cannot be read"):
            made.routers(1)


def test_quantities_carry_their_units():
    made = TypeAdapter(Ring).validate_python({"latency": "5 ms", "capacity": "8 Mbit/s", "access_latency": "1 ms"})
    assert made == Ring(latency=5000, capacity=1e6, access_latency=1000)
    for nonsense in ({"latency": 5}, {"nodes": 0}, {"attach": "anyhow"}):
        with pytest.raises(ValidationError):
            TypeAdapter(Ring).validate_python(nonsense)


# Routes over hundreds of nodes ----------------------------------------------------------------------------------------


def test_a_direct_link_is_found_at_once_however_many_neighbours_there_are(monkeypatch):
    graph = Complete(nodes=300, server=0).graph([1.0] * 300, [1.0] * 300)
    popped = Counter()
    monkeypatch.setattr(routes, "heappop", lambda heap: (popped.update(["pop"]), heap_pop(heap))[1])
    ways = Routes(graph)
    for client in range(1, 300):
        assert ways.path(client, "server") == (client, f"router {client}", "server")
    assert popped["pop"] < 310


heap_pop = routes.heappop


def test_four_hundred_routers_and_many_ways_of_equal_length():
    made = Grid(rows=20, columns=20, server=0)
    ways = Routes(made.graph([1.0] * 400, [1.0] * 400))
    for client in (399, 20, 19, 210):
        path = ways.path("server", client)
        assert len(path) == client // 20 + client % 20 + 2
        again = Routes(made.graph([1.0] * 400, [1.0] * 400))
        assert again.path("server", client) == path  # without the other questions


# The real files -------------------------------------------------------------------------------------------------------


def shared(dataset: str, file: str) -> Path:
    """A real data file, or the test is skipped."""
    try:
        return find(dataset, [file], FOLDERS)
    except DataMissing as missing:
        pytest.skip(str(missing))


def test_abilene_agrees_with_the_kilometres_of_the_data_folder():
    with gzip.open(shared("topology_zoo", "edges.csv.gz"), "rt") as file:
        rows = [line.strip().split(",") for line in file if line.startswith("Abilene,")]
    graph = TopologyZoo(name="Abilene", folders=FOLDERS, capacity=1.0).routers(1)
    assert (len(graph), graph.number_of_edges(), len(rows)) == (11, 14, 14)
    for _, one, other, km, *_ in rows:
        assert graph[int(one)][int(other)]["latency"] == pytest.approx(float(km) * 5e-6, abs=1e-7)
    assert graph[0][1]["latency"] == pytest.approx(0.0057292, abs=1e-7)
    assert graph.nodes[0]["label"] == "New York"


def test_all_of_the_zoo_is_fit_for_use():
    with tarfile.open(shared("topology_zoo", "graphml.tar.gz")) as tar:
        names = sorted(Path(name).stem for name in tar.getnames() if name.endswith(".graphml"))
    assert len(names) == 276
    for name in names[::23]:
        graph = TopologyZoo(name=name, folders=FOLDERS).routers(1)
        assert len(graph) >= 4
        assert nx.is_connected(graph)
        assert all(link["capacity"] > 0 <= link["latency"] for *_, link in graph.edges(data=True))


SIZES = {"gaia": (11, 55), "amazon_us": (22, 231), "geant": (40, 61), "exodus": (79, 147), "ebone": (87, 161),
         "sprint": (315, 972), "telstra": (None, None), "tiscali": (161, 328)}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_cross_silo_networks_are_of_the_size_that_the_paper_says(name):
    shared("crosssilo_graphs", CROSS_SILO[name])
    graph = CrossSilo(name=name, folders=FOLDERS).routers(1)
    if name != "telstra":  # which is in pieces
        assert (len(graph), graph.number_of_edges()) == SIZES[name]
    assert nx.is_connected(graph)
    assert min(latency for *_, latency in graph.edges(data="latency")) >= 0.004


def test_gaia_by_hand():
    shared("crosssilo_graphs", "gaia.gml")
    graph = CrossSilo(name="gaia", folders=FOLDERS).routers(1)
    assert graph[0][1]["capacity"] == 1.25e8
    assert graph[0][1]["latency"] == pytest.approx((0.0085 * 3560.859824767453 + 4) / 1000, rel=1e-12)
    assert [graph.nodes[node]["label"] for node in (0, 1)] == ["Virginia", "California"]
    mean = np.mean([capacity for *_, capacity in graph.edges(data="capacity")]) * 8 / 1e6
    assert round(mean) == 291


@pytest.mark.parametrize(("name", "hosts", "median"), [("planetlab490", 490, 0.136), ("seattle99", 99, 0.29)])
def test_measured_round_trips(name, hosts, median):
    shared("rtt_matrices", f"{name}.npz")
    graph = RoundTrips(name=name, folders=FOLDERS).routers(1)
    latency = [latency for *_, latency in graph.edges(data="latency")]
    assert (len(graph), len(latency)) == (hosts, hosts * (hosts - 1) // 2)
    assert min(latency) > 0
    assert 2 * np.median(latency) == pytest.approx(median, rel=0.05)
