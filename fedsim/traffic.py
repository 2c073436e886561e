"""What each link of the network has carried: the trace says who has sent how much to whom, the routes which way."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd

from fedsim.network import Routes, edge_name
from fedsim.network.capacity import Varying
from fedsim.network.routes import forwards
from fedsim.network.topologies import SERVER

SERVER_NUMBER = -1
"""The server's in the trace; edges' numbers follow those of the clients."""


@dataclass(frozen=True)
class Federation:
    """Whom a number of the trace stands for, and whom clients talk to: peers, the server, or edges in turn."""

    clients: int
    edges: int = 0

    @classmethod
    def of(cls, scenario: Mapping[str, Any]) -> Federation:
        """That of a resolved scenario."""
        edges = scenario["network"]["tree"]["edges"] if "edges" in scenario else 0
        return cls(scenario["fleet"]["clients"], edges)

    def node(self, number: int) -> str:
        """The node of the network, as text.

        >>> [Federation(clients=4, edges=2).node(number) for number in (-1, 3, 5)]
        ['server', '3', 'edge 1']
        """
        if number == SERVER_NUMBER:
            return SERVER
        return str(number) if number < self.clients else edge_name(number - self.clients)

    def above(self, numbers: np.ndarray) -> np.ndarray:
        """The number of whoever serves each of these."""
        edge = self.clients + numbers % max(1, self.edges)
        return np.where((numbers < self.clients) & (self.edges > 0), edge, SERVER_NUMBER)


def unloaded(graph: nx.Graph) -> pd.DataFrame:
    """One row a link and direction: `source` and `target` as text, `capacity` (bytes/s, at its highest), `latency` (s).

    The rows keep the order of each node's links, and `attrs` whether nodes forward, so that `routes` finds the same
    ways, equal ones too.
    """
    before = graph.pred if isinstance(graph, nx.DiGraph) else graph.adj
    rows = [
        (str(source), str(target), highest(link["capacity"]), link["latency"])
        for target, links in before.items()
        for source, link in links.items()
    ]
    frame = pd.DataFrame(rows, columns=["source", "target", "capacity", "latency"])
    frame.attrs["forwards"] = forwards(graph)
    return frame


def highest(capacity: float | Varying) -> float:
    """The most that a link ever carries, bytes per second."""
    return float(capacity) if isinstance(capacity, int | float) else max(capacity.levels)


def routes(links: pd.DataFrame) -> Routes:
    """The ways through the network of `unloaded`, between nodes as text."""
    graph = nx.DiGraph(forwards=links.attrs["forwards"])
    graph.add_edges_from(zip(links.source, links.target, ({"latency": each} for each in links.latency), strict=True))
    return Routes(graph)


def messages(trace: pd.DataFrame, federation: Federation) -> pd.DataFrame:
    """What has travelled: `time` (microseconds, of its end), `sender` and `hearer` (numbers of the trace), `nbytes`.

    A download ends where local training starts, an upload or a peer's message where it is heard, and what is lost was
    on its way down if the training had not started. What was under way when the run ended is not told of.
    """
    own = trace[trace.kind.isin(["start", "train", "upload", "lost"])]
    begun = own.kind.astype(str).groupby(own.client).shift().reindex(trace.index)
    down = (trace.kind == "train") | ((trace.kind == "lost") & (begun == "start"))
    moved = down | trace.kind.isin(["arrive", "lost", "unasked"])
    rows, down = trace.loc[moved], np.asarray(down[moved])
    client, peer = rows.client.to_numpy(), rows.peer.to_numpy()
    other = np.where(peer >= 0, peer, federation.above(client))
    return pd.DataFrame({
        "time": rows.time.to_numpy(), "sender": np.where(down, other, client), "hearer": np.where(down, client, other),
        "nbytes": rows.nbytes.to_numpy(),
    })  # fmt: skip


def carried(links: pd.DataFrame, ways: Routes, sent: pd.DataFrame, federation: Federation) -> np.ndarray:
    """Bytes that each link has carried of these messages, int64, in the order of the rows of `unloaded`.

    Each message counts on its usual way: the one of least latency.
    """
    place = {ends: row for row, ends in enumerate(zip(links.source, links.target, strict=True))}
    loads = [0] * len(links)
    pairs = sent[sent.nbytes > 0].groupby(["sender", "hearer"]).nbytes.sum()
    for (sender, hearer), nbytes in pairs.items():
        path: tuple[Hashable, ...] = ways.path(federation.node(sender), federation.node(hearer))
        for ends in pairwise(path):
            loads[place[ends]] += nbytes
    return np.array(loads, dtype=np.int64)


def loaded(graph: nx.Graph, trace: pd.DataFrame, federation: Federation) -> pd.DataFrame:
    """The links of `unloaded`, and the `bytes` that each has carried in a run."""
    links = unloaded(graph)
    return links.assign(bytes=carried(links, routes(links), messages(trace, federation), federation))
