"""What links have carried, by hand and by conservation; and the pictures of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import fedsim
from fedsim.__main__ import main
from fedsim.drawing import FRAMES, Portrait, draw_network
from fedsim.errors import ScenarioError, Stalled
from fedsim.layout import MOST_CLIENTS, places, plan
from fedsim.network import Routes
from fedsim.network.generated import Complete, Grid, Ring
from fedsim.network.topologies import Star, Tree
from fedsim.trace import COLUMNS
from fedsim.traffic import Federation, loaded, messages, routes, unloaded

DIGITS = {
    "seed": 3,
    "until": {"versions": 4},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.5}}}},
    "model": "logistic",
    "fleet": {"clients": 6, "devices": {"constant": {"per_example": "1 ms", "down": "8 Mbit/s", "up": "8 Mbit/s"}}},
    "local": {"steps": 2, "batch": 5, "optimizer": {"sgd": {"lr": 0.2}}},
    "evaluate": {"every": "20 ms"},
}
PEERS = DIGITS | {"network": {"ring": {"capacity": "8 Mbit/s"}}, "peers": "dpsgd"}
SERVED = DIGITS | {"aggregator": {"fedavg": {"cohort": 3}}}
EDGES = SERVED | {"network": {"tree": {"edges": 2}}, "edges": {"aggregator": {"fedavg": {"cohort": "all"}}}}


def events(*rows: tuple[int, str, int, int, int]) -> pd.DataFrame:
    """Time, kind, client, bytes, peer."""
    whole = [(time, kind, client, 0, nbytes, 0, peer) for time, kind, client, nbytes, peer in rows]
    frame = pd.DataFrame(whole, columns=list(COLUMNS))
    return frame.astype({"kind": "category"})


def by_ends(links: pd.DataFrame) -> dict[tuple[str, str], int]:
    return {(row.source, row.target): row.bytes for row in links.itertuples() if row.bytes}


def test_with_a_server_by_hand() -> None:
    """Client 0 comes through; 1 is lost on its way down after 30 bytes, 2 on its way up after 7."""
    trace = events(
        (0, "start", 0, 0, -1), (0, "start", 1, 0, -1), (0, "start", 2, 0, -1), (5, "train", 0, 100, -1),
        (6, "lost", 1, 30, -1), (7, "train", 2, 100, -1), (8, "upload", 0, 0, -1), (9, "arrive", 0, 50, -1),
        (9, "lost", 2, 7, -1), (9, "version", -1, 0, -1),
    )  # fmt: skip
    links = loaded(Star().graph([1.0] * 3, [2.0] * 3), trace, Federation(3))
    assert by_ends(links) == {
        ("server", "hub"): 230, ("hub", "0"): 100, ("hub", "1"): 30, ("hub", "2"): 100,
        ("0", "hub"): 50, ("2", "hub"): 7, ("hub", "server"): 57,
    }  # fmt: skip
    assert links.set_index(["source", "target"]).capacity["2", "hub"] == 2.0


def test_peers_by_hand() -> None:
    """On a ring of four, 0 speaks to 2 by one of two equal ways, the one that the simulation takes; an upload waits."""
    graph = Ring().serverless([1.0] * 4, [1.0] * 4)
    trace = events((1, "train", 0, 0, -1), (2, "upload", 0, 9, 2), (4, "arrive", 0, 9, 2), (5, "upload", 1, 9, 2))
    way = [str(node) for node in Routes(graph).path(0, 2)]
    assert by_ends(loaded(graph, trace, Federation(4))) == dict.fromkeys(pairwise(way), 9)


def test_edges_by_hand() -> None:
    """Clients talk to their edges in turn, edges to the server."""
    trace = events((1, "train", 5, 80, -1), (2, "train", 3, 10, -1), (3, "arrive", 3, 10, -1))
    links = by_ends(loaded(Tree(edges=2).graph([1.0] * 4, [1.0] * 4), trace, Federation(4, edges=2)))
    assert links == {("server", "hub"): 80, ("hub", "edge 1"): 80, ("edge 1", "3"): 10, ("3", "edge 1"): 10}


@pytest.mark.parametrize(
    "graph",
    [Ring().serverless([1.0] * 8, [1.0] * 8), Grid(rows=3, columns=3).graph([1.0] * 9, [1.0] * 9),
     Grid(rows=2, columns=4, duplex="half", wrap=True).serverless([1.0] * 8, [1.0] * 8)],
)  # fmt: skip
def test_ways_are_found_again_from_the_table(graph) -> None:
    found, direct = routes(unloaded(graph)), Routes(graph)
    for source in graph:
        for target in graph:
            way = tuple(map(str, direct.path(source, target)))
            assert found.path(str(source), str(target)) == way


def test_whoever_does_not_forward_does_not_in_the_table_either(tmp_path) -> None:
    graph = nx.DiGraph(forwards=False)
    graph.add_edges_from([(0, 1), (1, 2)], capacity=1.0, latency=0.1)
    graph.add_edges_from([(0, 2), (2, 0)], capacity=1.0, latency=9.0)
    unloaded(graph).to_parquet(tmp_path / "links")
    assert routes(pd.read_parquet(tmp_path / "links")).path("0", "2") == ("0", "2")


@pytest.mark.parametrize("base", [PEERS, SERVED, EDGES], ids=["peers", "served", "edges"])
def test_what_was_sent_is_what_first_links_have_carried(tmp_path, base) -> None:
    run = fedsim.run(base, out=tmp_path, picture=False)
    ends = run.links[["source", "target"]].itertuples(index=False)
    clients = np.array([source.isdigit() for source, _ in ends])
    counts, sent = run.receipt["counts"], messages(run.trace, Federation.of(run.scenario))
    assert sent.nbytes.sum() == counts["bytes_up"] + counts["bytes_down"] > 0
    own = counts["bytes_up"] - sum(sent.nbytes[(sent.sender >= 6) & (sent.hearer == -1)])
    assert run.links.bytes[clients].sum() == own


def test_a_run_that_fails_says_what_its_links_have_carried(tmp_path) -> None:
    away = SERVED | {"fleet": DIGITS["fleet"] | {"drop": {"upload": 1.0}}}
    with pytest.raises(Stalled):
        fedsim.run(away, out=tmp_path, picture=False)
    [path] = (tmp_path / "scenario").iterdir()
    assert fedsim.load(path).links.bytes.sum() > 0


def test_a_client_and_its_own_router_are_one_node() -> None:
    peers = plan(unloaded(Ring().serverless([1.0] * 5, [1.0] * 5)))
    assert sorted(peers) == list("01234")
    assert all(len(link["rows"]) == 2 for *_, link in peers.edges(data=True))
    half = plan(unloaded(Ring(duplex="half").serverless([1.0] * 5, [1.0] * 5)))
    assert {frozenset(ends) for ends in half.edges} == {frozenset(ends) for ends in peers.edges}
    served = plan(unloaded(replace(Ring(), nodes=3, server=0).graph([1.0] * 5, [1.0] * 5)))
    assert sorted(served) == ["0", "1", "2", "3", "4", "router 1", "server"]


@pytest.mark.parametrize(
    "graph",
    [Ring().serverless([1.0] * 8, [1.0] * 8), Complete().serverless([1.0] * 7, [1.0] * 7), Star().graph([1.0], [1.0]),
     Star().graph([1.0] * 150, [1.0] * 150), Tree().graph([1.0] * 20, [1.0] * 20),
     Grid(rows=3, columns=4).graph([1.0] * 50, [1.0] * 50),
     Ring().serverless([1.0] * 500, [1.0] * 500), Complete().serverless([1.0], [1.0])],
)  # fmt: skip
def test_every_node_has_a_place_of_its_own_and_always_the_same(graph) -> None:
    drawn = plan(unloaded(graph))
    found, again = places(drawn), places(plan(unloaded(graph)))
    assert set(found) == set(drawn)
    points = np.array(list(found.values()))
    assert np.isfinite(points).all()
    assert np.abs(points).max() <= 1 + 1e-9
    assert all((found[node] == again[node]).all() for node in found)
    assert len(np.unique(points.round(4), axis=0)) == len(points)


def test_near_is_near() -> None:
    """Places are as far apart as latencies say, up to one factor: on a ladder no rung is longer than two."""
    graph = Grid(rows=2, columns=6).serverless([1.0] * 12, [1.0] * 12)
    found = places(plan(unloaded(graph)))
    lengths = [np.linalg.norm(found[str(i)] - found[str(i + 1)]) for i in range(5)]
    assert max(lengths) < 1.5 * min(lengths)
    assert np.linalg.norm(found["0"] - found["5"]) > 4 * min(lengths)


def test_of_a_large_star_a_sample_is_drawn_and_the_picture_says_so(tmp_path) -> None:
    many = SERVED | {"fleet": {"clients": 500, "devices": "fedscale"}, "executor": "null", "until": {"versions": 1}}
    portrait = Portrait(fedsim.run(many, out=tmp_path, picture=False))
    assert len(portrait.clients) == MOST_CLIENTS
    assert "300 of 500 clients are drawn" in portrait.note
    assert "FedScale" in portrait.note


def test_colours_are_the_accuracy_where_it_is_known_and_else_trainings(tmp_path) -> None:
    run = fedsim.run(SERVED | {"evaluate": {"every": "20 ms", "train": True, "clients": True}}, out=tmp_path)
    portrait = Portrait(run)
    last = run.clients[run.clients.time_s == run.clients.time_s.max()].set_index("client")
    assert portrait.values(portrait.seconds).tolist() == last.train_accuracy[portrait.clients].tolist()
    plain = Portrait(fedsim.run(SERVED, out=tmp_path))
    assert plain.values(plain.seconds).sum() == (plain.run.trace.kind == "train").sum()
    assert plain.values(0.0).sum() == 0


def test_loads_are_shares_of_the_time_and_frames_add_up(tmp_path) -> None:
    portrait = Portrait(fedsim.run(PEERS, out=tmp_path, picture=False))
    frames = list(portrait.frames())
    assert 2 < len(frames) <= FRAMES
    times = np.array([time for time, *_ in frames])
    loads = np.array([load for *_, load in frames])
    whole = (loads * np.diff(times, prepend=0.0)[:, None]).sum(axis=0) / portrait.seconds
    assert whole == pytest.approx(portrait.whole_loads())
    row = portrait.graph.edges["0", "1"]["rows"]
    expected = portrait.run.links.bytes[row].max() / (1e6 * portrait.seconds) * 100
    assert portrait.whole_loads()[[set(ends) for ends in portrait.graph.edges].index({"0", "1"})] == pytest.approx(
        expected
    )


def test_without_limits_loads_are_bytes(tmp_path) -> None:
    endless = {"constant": {"per_example": "1 ms", "down": "unlimited", "up": "unlimited"}}
    run = fedsim.run(SERVED | {"fleet": {"clients": 6, "devices": endless}}, out=tmp_path, picture=False)
    assert Portrait(run).whole_loads().max() == run.links.bytes.max()


@pytest.mark.parametrize("base", [PEERS, EDGES], ids=["peers", "edges"])
def test_pictures_from_the_command_line(tmp_path, monkeypatch, capsys, base) -> None:
    run = fedsim.run(base, out=tmp_path, picture=False)
    for options in ([], ["--animate"], ["--out", str(tmp_path / "other.png")]):
        monkeypatch.setattr(sys, "argv", ["fedsim", "draw", str(run.path), *options])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
    assert "network.gif" in capsys.readouterr().out
    with Image.open(run.path / "network.png") as picture, Image.open(run.path / "network.gif") as film:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
        assert film.n_frames >= 2  # equal frames are one
    assert (tmp_path / "other.png").exists()


def test_what_cannot_be_drawn_is_one_line(tmp_path, monkeypatch, capsys) -> None:
    run = fedsim.run(PEERS, out=tmp_path, picture=False)
    (run.path / "links.parquet").unlink()
    for path, sentence in ((tmp_path, "is not a run folder"), (run.path, "says nothing of its links")):
        monkeypatch.setattr(sys, "argv", ["fedsim", "draw", str(path)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert sentence in capsys.readouterr().err


def test_a_comparison_has_a_picture_an_arm(tmp_path) -> None:
    run = fedsim.run(PEERS | {"compare": [{"peers": "dpsgd"}, {"peers": "adpsgd"}]}, out=tmp_path, picture=False)
    assert draw_network(run.path) == [arm.path / "network.png" for arm in run.arms]
    assert set(run.links.arm) == {"dpsgd", "adpsgd"}
    with pytest.raises(ScenarioError, match="compares 2 runs"):
        draw_network(run.path, tmp_path / "one.png")


def test_a_link_that_changes_shows_its_highest_capacity(tmp_path) -> None:
    outage = {"between": [0, 1], "start": "1 s", "end": "2 s"}
    found = fedsim.run(PEERS | {"links": {"outages": [outage]}}, out=tmp_path, picture=False)
    assert set(found.links[found.links.source.str.startswith("router")].capacity) >= {1e6}
    assert found.links.capacity.dtype == float
