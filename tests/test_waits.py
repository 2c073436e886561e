"""Spans and waits of small traces, by hand; and of runs, by what has to add up."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import fedsim
from fedsim.network.topologies import Star
from fedsim.spans import presence, spans
from fedsim.trace import COLUMNS
from fedsim.traffic import Federation, unloaded
from fedsim.waits import NOBODY, Crowd, waits

DIGITS = {
    "seed": 3,
    "until": {"versions": 6},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.5}}}},
    "model": "logistic",
    "fleet": {"clients": 6, "devices": {"lognormal": {"down": "1 Mbit/s", "up": "1 Mbit/s"}}},
    "local": {"steps": 2, "batch": 5, "optimizer": {"sgd": {"lr": 0.2}}},
    "evaluate": {"every": "100 ms"},
    "executor": "null",
}
NARROW = {"star": {"server_up": "1 Mbit/s", "server_down": "1 Mbit/s"}}
SERVED = DIGITS | {"aggregator": {"fedavg": {"cohort": 3}}, "network": NARROW}
BUFFERED = SERVED | {"aggregator": {"fedbuff": {"concurrency": 4, "goal": 2}}}
EDGES = SERVED | {"network": {"tree": {"edges": 2}}, "edges": {"aggregator": {"fedavg": {"cohort": "all"}}}}
CODED = DIGITS | {"local": DIGITS["local"] | {"steps": 1}, "coding": {"uncoded": {"models": 2}}}
PEERS = DIGITS | {"network": {"ring": {"capacity": "1 Mbit/s"}}, "peers": "gossip"}
TOGETHER = PEERS | {"peers": "dpsgd"}
WAYS = {"rounds": SERVED, "buffer": BUFFERED, "edges": EDGES, "coded": CODED, "gossip": PEERS, "dpsgd": TOGETHER}


def events(*rows: tuple[int, str, int, int]) -> pd.DataFrame:
    """Time, kind, client, version; then perhaps bytes and peer."""
    whole = [(*row[:4], row[4] if len(row) > 4 else 0, 0, row[5] if len(row) > 5 else -1) for row in rows]
    return pd.DataFrame(whole, columns=list(COLUMNS)).astype({"kind": "category"})


ROUND = events(
    (0, "join", 0, 0), (0, "join", 1, 0), (0, "join", 2, 0), (0, "start", 0, 0), (0, "start", 1, 0), (0, "start", 2, 0),
    (2, "train", 0, 0, 10), (3, "train", 1, 0, 10), (4, "lost", 2, 0, 6), (5, "upload", 0, 0), (7, "arrive", 0, 0, 20),
    (8, "upload", 1, 0), (12, "arrive", 1, 0, 20), (12, "version", -1, 1), (12, "start", 0, 1), (13, "train", 0, 1, 10),
    (20, "leave", 0, 1), (20, "version", -1, 2), (20, "lost", 0, 1), (30, "version", -1, 3),
)  # fmt: skip


def test_spans_by_hand() -> None:
    found = spans(ROUND)
    rows = {(row.client, row.phase, row.begin): (row.end, row.ended, row.nbytes) for row in found.itertuples()}
    assert rows == {
        (0, "download", 0): (2, "done", 10), (1, "download", 0): (3, "done", 10), (2, "download", 0): (4, "lost", 6),
        (0, "train", 2): (5, "done", 0), (1, "train", 3): (8, "done", 0), (0, "upload", 5): (7, "done", 20),
        (1, "upload", 8): (12, "done", 20), (0, "download", 12): (13, "done", 10), (0, "train", 13): (20, "lost", 0),
    }  # fmt: skip
    assert presence(ROUND).to_dict("list") == {"client": [0, 1, 2], "begin": [0, 0, 0], "end": [20, 30, 30]}


def test_what_goes_on_when_the_trace_ends_is_open() -> None:
    found = spans(events((0, "start", 0, 0), (4, "train", 0, 0), (9, "version", -1, 1)))
    assert found[["end", "ended"]].to_numpy().tolist() == [[4, "done"], [9, "open"]]
    assert spans(events()).empty
    assert waits(events()).empty


def test_waits_by_hand() -> None:
    """Version 1 waits for client 1; version 2 until 0 goes away in the middle of its training; 3 for the clock."""
    found = waits(ROUND)
    columns = ["version", "since", "time", "cause", "client", "before", "download", "train", "upload"]
    assert found[columns].to_numpy().tolist() == [
        [1, 0, 12, "arrival", 1, 0, 3, 5, 4],
        [2, 12, 20, "loss", 0, 0, 1, 7, 0],
        [3, 20, 30, "clock", NOBODY, 10, 0, 0, 0],
    ]


def test_what_began_before_the_last_version_counts_from_there() -> None:
    trace = events(
        (0, "start", 0, 0), (0, "start", 1, 0), (1, "train", 0, 0), (2, "train", 1, 0), (3, "upload", 0, 0),
        (5, "arrive", 0, 0), (5, "version", -1, 1), (6, "upload", 1, 0), (9, "arrive", 1, 0), (9, "unasked", 3, 0),
        (9, "version", -1, 2),
    )  # fmt: skip
    last = waits(trace).iloc[-1]
    assert last[["cause", "client", "before", "download", "train", "upload"]].tolist() == ["arrival", 1, 0, 0, 1, 3]


def test_peers_by_hand() -> None:
    """Peer 1 ends the first round with 0's message, which was under way from 4 to 9; the second with its own work."""
    trace = events(
        (0, "train", 0, 0), (0, "train", 1, 0), (4, "upload", 0, 0, 50, 1), (5, "upload", 1, 0, 50, 0),
        (8, "arrive", 1, 0, 50, 0), (8, "version", 0, 1), (8, "train", 0, 1), (9, "arrive", 0, 0, 50, 1),
        (9, "version", 1, 1), (9, "train", 1, 1), (9, "upload", 1, 1, 50, 0), (11, "arrive", 1, 1, 50, 0),
        (12, "version", 0, 2), (15, "version", 1, 2), (15, "train", 1, 2),
    )  # fmt: skip
    found = waits(trace)
    columns = ["server", "version", "since", "time", "cause", "client", "before", "download", "train", "upload"]
    assert found[columns].to_numpy().tolist() == [
        [1, 1, 0, 9, "arrival", 0, 0, 0, 4, 5],
        [1, 2, 9, 15, "training", 1, 0, 0, 6, 0],
    ]
    trainings = spans(trace).query("phase == 'train'")
    assert trainings[["client", "begin", "end"]].to_numpy().tolist() == [[0, 0, 4], [1, 0, 5], [0, 8, 12], [1, 9, 15],
                                                                          [1, 15, 15]]  # fmt: skip


def test_who_shares_a_link_and_what_it_takes_alone() -> None:
    """Client 0 has the server's line with 1, who overlaps with it, and not with 2, who begins when it is over."""
    links = unloaded(Star(latency=0, server_up=np.inf, server_down=100.0).graph([1e3] * 4, [1e3] * 4))
    trace = events(*[row for begin, end, client in ((0, 2_000_000, 0), (1_000_000, 3_000_000, 1),
                                                    (2_000_000, 4_000_000, 2))
                     for row in ((0, "start", client, 0), (0, "train", client, 0), (begin, "upload", client, 0),
                                 (end, "arrive", client, 0, 150))])  # fmt: skip
    crowd = Crowd(spans(trace), links, Federation(4))
    assert crowd.alone(0, "upload", 150) == 1_500_000
    assert crowd.sharers(0, "upload", 0, 2_000_000) == [1]
    assert crowd.sharers(1, "upload", 1_000_000, 3_000_000) == [0, 2]
    assert crowd.sharers(2, "upload", 2_000_000, 4_000_000) == [1]
    assert crowd.sharers(0, "download", 0, 2_000_000) == []  # of its own line nobody else has any


@pytest.mark.parametrize("way", WAYS)
def test_phases_add_up_and_nobody_does_two_things_at_once(tmp_path, way) -> None:
    run = fedsim.run(WAYS[way], out=tmp_path, picture=False)
    found, time = waits(run.trace), spans(run.trace)
    assert (found[["before", "download", "train", "upload"]].sum(axis=1) == found.time - found.since).all()
    assert (found[["before", "download", "train", "upload"]] >= 0).all(axis=None)
    above = found[found.server == -1] if "peers" not in WAYS[way] else found
    assert above.version.tolist() == list(range(1, 7))
    assert above.time.max() == run.trace.time[run.trace.kind == "version"].max()
    alone = time[time.peer < 0].sort_values(["client", "begin", "end"])
    same = alone.client.to_numpy()[1:] == alone.client.to_numpy()[:-1]
    assert (alone.begin.to_numpy()[1:][same] >= alone.end.to_numpy()[:-1][same]).all()
    assert (found.cause != "clock").all()
    assert found[["train", "upload"]].to_numpy().sum() > 0


def test_alone_is_what_an_upload_without_company_takes(tmp_path) -> None:
    run = fedsim.run(SERVED | {"aggregator": {"fedavg": {"cohort": 1}}}, out=tmp_path, picture=False)
    found = spans(run.trace).query("phase != 'train' and ended == 'done'")
    crowd = Crowd(spans(run.trace), run.links, Federation.of(run.scenario))
    for span in found.itertuples():
        assert abs(span.end - span.begin - crowd.alone(span.client, span.phase, span.nbytes)) <= 1
        assert crowd.sharers(span.client, span.phase, span.begin, span.end) == []


def test_in_company_it_takes_longer_by_who_is_named(tmp_path) -> None:
    run = fedsim.run(SERVED, out=tmp_path, picture=False)
    crowd = Crowd(spans(run.trace), run.links, Federation.of(run.scenario))
    slowed = 0
    for span in spans(run.trace).query("phase == 'upload' and ended == 'done'").itertuples():
        late = span.end - span.begin - crowd.alone(span.client, span.phase, span.nbytes)
        assert late >= -1
        assert late <= 1 or crowd.sharers(span.client, span.phase, span.begin, span.end)
        slowed += late > 1
    assert slowed
