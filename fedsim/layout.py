"""What is drawn of a network, and where: a plan of nodes on a plane."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

import networkx as nx
import numpy as np
import pandas as pd

from fedsim.network.topologies import HUB, SERVER

MOST_CLIENTS = 300
"""Of the clients that stand at somebody else's node, so many are drawn."""
PIVOTS = 100
STRESSED = 400
"""Up to so many nodes are moved until their distances are right; of more, only those to the pivots count."""
MOVES = 150
RING = 60
"""So many leaves stand side by side before they are staggered."""

Places = dict[str, np.ndarray]


def plan(links: pd.DataFrame) -> nx.Graph:
    """What is to be drawn: an undirected graph whose nodes have a `kind` and whose links know their `rows`.

    A client and the router that is its own are one node, the client, and a line that both directions share is one link.
    Of clients at other nodes, the `guests`, a sample is left; `hidden` says how many are not.
    """
    whole = nx.Graph()
    for row, (source, target) in enumerate(zip(links.source, links.target, strict=True)):
        if not whole.has_edge(source, target):
            whole.add_edge(source, target, rows=[], latency=links.latency.iloc[row])
        whole[source][target]["rows"].append(row)
    _unwire(whole)
    clients = sorted((node for node in whole if node.isdigit()), key=int)
    leaves = _merge_own_routers(whole, clients)
    spare = set(leaves) - {leaves[place] for place in _spread(len(leaves), MOST_CLIENTS)}
    whole.remove_nodes_from(spare)
    whole.graph |= {"hidden": len(spare), "guests": set(leaves) - spare}
    for node in whole:
        whole.nodes[node]["kind"] = _kind(node)
    return whole


def _kind(node: str) -> str:
    return "client" if node.isdigit() else node.split()[0]


def _spread(count: int, most: int) -> Sequence[int]:
    return range(count) if count <= most else np.linspace(0, count - 1, most).round().astype(int).tolist()


def _unwire(graph: nx.Graph) -> None:
    """A wire's two nodes (see `fedsim.network.shapes.wires`) become the link that they stand for."""
    for start in [node for node in graph if node.startswith("wire ") and node.endswith(" in")]:
        end = start.removesuffix("in") + "out"
        one, other = (node for node in graph[start] if node != end)
        graph.add_edge(one, other, **graph[start][end])
        graph.remove_nodes_from([start, end])


def _merge_own_routers(graph: nx.Graph, clients: Sequence[str]) -> list[str]:
    """Clients take the places of the routers that are theirs alone; those who have none, in order."""
    hosts = {client: next(iter(graph[client])) for client in clients if graph.degree[client] == 1}
    guests = {client: host for client, host in hosts.items() if not host.isdigit()}
    crowd = Counter(guests.values())
    alone = {client: host for client, host in guests.items() if crowd[host] == 1 and host.startswith("router ")}
    graph.remove_nodes_from(alone)
    nx.relabel_nodes(graph, {router: client for client, router in alone.items()}, copy=False)
    return [client for client in guests if client not in alone]


def places(graph: nx.Graph) -> Places:
    """Where each node of a plan stands, within the unit circle or so. The same graph has the same places."""
    if nx.is_tree(graph) and HUB in graph:
        found = _radial(graph)
    else:
        core = graph.copy()
        core.remove_nodes_from(graph.graph["guests"])
        found = _round(core) if _is_uniform(core) else _by_latency(core)
        _fan(graph, [node for node in graph if node not in core], found)
    points = np.array(list(found.values()))
    low, high = points.min(axis=0), points.max(axis=0)
    scale = max(1e-9, (high - low).max() / 2)
    return {node: (place - (low + high) / 2) / scale for node, place in found.items()}


def _is_uniform(graph: nx.Graph) -> bool:
    """A third of all pairs are linked, and all links alike: there is nothing to tell near from far."""
    latencies = {link["latency"] for *_, link in graph.edges(data=True)}
    return len(graph) == 1 or (len(latencies) == 1 and nx.density(graph) > 1 / 3)


def _round(graph: nx.Graph) -> Places:
    nodes = sorted(graph, key=_by_number)
    angles = np.pi / 2 - 2 * np.pi * np.arange(len(nodes)) / len(nodes)
    return {node: np.array([np.cos(angle), np.sin(angle)]) for node, angle in zip(nodes, angles, strict=True)}


def _by_latency(graph: nx.Graph) -> Places:
    """Kamada and Kawai's energy (1989), lowered by majorisation (Gansner et al., 2004) from pivots' scaling.

    Distances are latencies, none less than a quarter of the median, so that no two nodes are one.
    """
    nodes = list(graph)
    typical = float(np.median([link["latency"] for *_, link in graph.edges(data=True)])) or 1.0
    lengths = {(one, other): max(link["latency"] / typical, 0.25) for one, other, link in graph.edges(data=True)}
    nx.set_edge_attributes(graph, lengths, "length")
    pivots = [nodes[place] for place in _spread(len(nodes), max(PIVOTS, STRESSED * (len(nodes) <= STRESSED)))]
    rows = (nx.single_source_dijkstra_path_length(graph, pivot, weight="length") for pivot in pivots)
    apart = np.array([[row.get(node, inf) for node in nodes] for row in rows]).T
    found = _scaled(apart)
    if len(pivots) == len(nodes):
        found = _majorised(found, apart)
    return dict(zip(nodes, found, strict=True))


def _scaled(apart: np.ndarray) -> np.ndarray:
    """Places (n, 2) from distances to pivots (n, k): Brandes and Pich, "Pivot MDS", 2006; the longer way lies flat."""
    squares = apart**2
    centred = squares - squares.mean(axis=0) - squares.mean(axis=1, keepdims=True) + squares.mean()
    _, directions = np.linalg.eigh(centred.T @ centred)
    found = -centred @ directions[:, [-1, -2]] if apart.shape[1] > 1 else np.zeros((len(apart), 2))
    found *= apart.std() / max(found.std(), 1e-9)
    angles = 2 * np.pi * np.arange(len(found)) / len(found)
    return found + 0.05 * apart.max() * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _majorised(found: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Places (n, 2) whose distances come near those asked for (n, n), weighted by their inverse squares."""
    count = len(found)
    weights = np.where(np.eye(count) > 0, 0.0, 1.0 / np.maximum(apart, 1e-9) ** 2)
    laplacian = np.diag(weights.sum(axis=1)) - weights
    inverse = np.linalg.inv(laplacian + 1.0 / count) - 1.0 / count
    for _ in range(MOVES):
        now = np.linalg.norm(found[:, None] - found[None], axis=2)
        pull = weights * apart / np.maximum(now, 1e-9)
        found = inverse @ ((np.diag(pull.sum(axis=1)) - pull) @ found)
    return found


def _by_number(node: str) -> tuple[bool, int, str]:
    """The server first, then names by the numbers in them."""
    number = node.split()[-1]
    return node != SERVER, int(number) if number.isdigit() else -1, node


def _fan(graph: nx.Graph, leaves: Sequence[str], found: Places) -> None:
    """Leaves stand round the node that they hang from, on the side away from the middle if they are few."""
    middle = np.mean(list(found.values()), axis=0)
    size = max(float(np.ptp(np.array(list(found.values())), axis=0).max()), 1e-9)
    around: dict[str, list[str]] = {}
    for leaf in leaves:
        around.setdefault(next(iter(graph[leaf])), []).append(leaf)
    radius = 0.5 * size / max(2.0, len(found) ** 0.5)
    for node, own in around.items():
        x, y = found[node] - middle
        start, width = np.arctan2(y, x), min(1.6 * np.pi, 0.5 * len(own))
        for place, leaf in enumerate(own):
            angle = start + width * ((place + 0.5) / len(own) - 0.5)
            reach = radius * (1 + 0.3 * (place % ceil(len(own) / 12)))
            found[leaf] = found[node] + reach * np.array([np.cos(angle), np.sin(angle)])


def _radial(tree: nx.Graph) -> Places:
    """The hub in the middle, the server above it, and every branch in a sector as wide as it has leaves."""
    found = {HUB: np.zeros(2)}
    leaves = sum(tree.degree[node] == 1 for node in tree)
    room = {SERVER: max(1.0, 0.08 * leaves)}
    _Rays(tree, room, found).spread(HUB, None, np.pi / 2, np.pi / 2 - 2 * np.pi, depth=1)
    turn = float(np.arctan2(found[SERVER][0], found[SERVER][1])) if SERVER in found else 0.0
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return {node: turned @ place for node, place in found.items()}


@dataclass(frozen=True)
class _Rays:
    """Spreads a tree out in rays from its root."""

    tree: nx.Graph
    room: dict[str, float]
    """How much of a sector a leaf wants, where it is not 1."""
    found: Places

    def spread(self, node: str, above: str | None, start: float, end: float, depth: int) -> None:
        """Place all that lies below a node between two angles, each by the room that it needs."""
        below = sorted((other for other in self.tree[node] if other != above), key=_by_number)
        needs = [self.needed(other, node) for other in below]
        borders = start + (end - start) * np.cumsum([0.0, *needs]) / max(sum(needs), 1e-9)
        lanes = ceil(len(below) / RING)
        for place, other in enumerate(below):
            angle = (borders[place] + borders[place + 1]) / 2
            reach = depth + (0.12 * (place % lanes) if self.tree.degree[other] == 1 and other != SERVER else 0.0)
            self.found[other] = reach * np.array([np.cos(angle), np.sin(angle)])
            self.spread(other, node, borders[place], borders[place + 1], depth + 1)

    def needed(self, node: str, above: str) -> float:
        """The room of a node with all that lies below it."""
        below = [other for other in self.tree[node] if other != above]
        return self.room.get(node) or sum(self.needed(other, node) for other in below) or 1.0
