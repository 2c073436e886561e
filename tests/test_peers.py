"""Algorithms of peers, each against its paper's rule in numpy, and what it costs in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

import networkx as nx
import numpy as np
import pytest
import torch
from torch import Tensor
from worlds import Recording, devices

from fedsim.errors import ScenarioError
from fedsim.executors import Inline, Null, Stacked
from fedsim.fleet import Fleet
from fedsim.mixing import graphs
from fedsim.mixing.drawn import DirectedPull, Matching
from fedsim.mixing.fixed import Average, Metropolis, Nobody
from fedsim.mixing.merging import Every, Last, Never, Window
from fedsim.peers import collectives
from fedsim.peers.adpsgd import ADPSGD
from fedsim.peers.dpsgd import DPSGD
from fedsim.peers.gossip import Gossip, Local
from fedsim.peers.quasi_global import QGDSGDm
from fedsim.peers.relay import RelaySGD
from fedsim.peers.sgp import SGP
from fedsim.peers.tracking import DeTAG, GradientTracking
from fedsim.progress import Progress, Until
from fedsim.simulation import Simulation
from fedsim.swarm import Swarm
from fedsim.trace import ARRIVE, TRAIN, UPLOAD, VERSION
from fedsim.units import SECOND
from fedsim.work import LocalResult, LocalTask
from fedsim.workload import Workload

PEERS_, SIZE, LR = 6, 3, 0.1
NBYTES = 1000


def gradient(client: int, ordinal: int, x: np.ndarray) -> np.ndarray:
    """Of peer i's function: its minimum is at i, and its noise has an address."""
    return x - client + 0.01 * np.cos(np.arange(SIZE) + 7 * client + 13 * ordinal)


def train(tasks: Sequence[LocalTask]) -> list[LocalResult]:
    """One step of SGD at LR, in float64, with what was sent added to the gradient."""
    results = []
    for task in tasks:
        plain = torch.from_numpy(gradient(task.client, task.ordinal, task.params.numpy()))
        moved = plain if task.sent is None else plain + task.sent
        results.append(LocalResult(-LR * moved, loss=1.0, extra=plain))
    return results


def swarm(
    algorithm: object,
    until: Until | None = None,
    *,
    seconds: Sequence[float] = (1.0,) * PEERS_,
    graph: nx.Graph | None = None,
    executor: str = "inline",
    every: int = 10**9,
    evaluate: Callable[[list[Tensor]], object] | None = None,
) -> Swarm:
    """Ready to run; messages take no time unless a graph is given."""
    peers = len(seconds)
    if graph is None:
        graph = nx.complete_graph(peers)
        nx.set_edge_attributes(graph, {edge: {"capacity": inf, "latency": 0.0} for edge in graph.edges})
    ones = [1] * peers
    work = Workload(steps=ones, seen=ones, held=ones, flops=1.0, down=NBYTES, up=NBYTES)
    executors = {
        "null": lambda: Null(LocalResult(torch.zeros(0), 0.0, extra=torch.zeros(0))),
        "inline": lambda: Inline(train),
        "stacked": lambda: Stacked(train, worth=64, row_bytes=8 * SIZE, synchronous=False),
    }
    world = Simulation(Fleet(devices(*seconds)), graph, executors[executor](), Recording())
    progress = Progress(until or Until(versions=5), every, **({"evaluate": evaluate} if evaluate else {}))
    start = torch.zeros(0 if executor == "null" else SIZE, dtype=torch.float64)
    return Swarm(world, algorithm, work, progress, start)


def ran(algorithm: object, until: Until | None = None, **world) -> Swarm:
    made = swarm(algorithm, until, **world)
    made.run()
    return made


def models(done: Swarm) -> np.ndarray:
    """(m, P)."""
    return torch.stack(done.params).numpy()


def gradients(x: np.ndarray, ordinal: int) -> np.ndarray:
    return np.stack([gradient(peer, ordinal, row) for peer, row in enumerate(x)])


def dense(rows: Sequence[Mapping[int, float]]) -> np.ndarray:
    return np.array([[row.get(peer, 0.0) for peer in range(len(rows))] for row in rows])


def ring(peers: int = PEERS_) -> Metropolis:
    return Metropolis(clients=peers, graph=graphs.Ring(clients=peers))


PULL = DirectedPull(clients=PEERS_, seed=3, partners=0.6)
MATCHING = Matching(clients=PEERS_, seed=3)
AVERAGE = Average(clients=PEERS_)
TREE = graphs.BinaryTree(clients=PEERS_)
ALGORITHMS = {
    "local": Local(),
    "gossip": Gossip(mixing=PULL, merge=Never()),
    "merged": Gossip(mixing=PULL, merge=Last(rounds=5), collective=collectives.Ring()),
    "matching": Gossip(mixing=MATCHING, merge=Every(period=2), collective=collectives.Tree()),
    "dpsgd": DPSGD(mixing=ring()),
    "adpsgd": ADPSGD(graph=graphs.Ring(clients=PEERS_), seed=1),
    "sgp": SGP(mixing=PULL),
    "gradient_tracking": GradientTracking(mixing=ring()),
    "detag": DeTAG(mixing=ring(), gossips=3),
    "qg_dsgdm": QGDSGDm(mixing=ring()),
    "relay_sgd": RelaySGD(graph=TREE),
}
"""One of each kind."""


# The papers' rules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", [PULL, MATCHING, AVERAGE, ring()], ids=lambda mixing: type(mixing).__name__)
def test_gossip_trains_and_mixes(mixing) -> None:
    x = np.zeros((PEERS_, SIZE))
    for t in range(5):
        x = dense(mixing.rows(t)) @ (x - LR * gradients(x, t))
    np.testing.assert_allclose(models(ran(Gossip(mixing=mixing, merge=Never()))), x, rtol=1e-12)


def test_dpsgd_takes_the_gradient_before_mixing() -> None:
    x, w = np.zeros((PEERS_, SIZE)), dense(ring().rows(0))
    for t in range(5):
        x = w @ x - LR * gradients(x, t)
    np.testing.assert_allclose(models(ran(DPSGD(mixing=ring()))), x, rtol=1e-12)


def test_gradient_tracking_is_the_classical_one_for_one_step() -> None:
    x, w = np.zeros((PEERS_, SIZE)), dense(ring().rows(0))
    y = gradients(x, 0)
    for t in range(5):
        old = gradients(x, t)
        x = w @ (x - LR * y)
        y = w @ y + gradients(x, t + 1) - old
    done = ran(GradientTracking(mixing=ring()))
    np.testing.assert_allclose(models(done), x, rtol=1e-12)
    corrections = torch.stack([node.memory["c"] for node in done.nodes])
    np.testing.assert_allclose(corrections.sum(0), np.zeros(SIZE), atol=1e-12)


def test_detag_is_gradient_tracking_with_accelerated_gossip() -> None:
    algorithm = DeTAG(mixing=ring(), gossips=3)
    w = dense(ring().rows(0))
    second = np.sort(np.abs(np.linalg.eigvalsh(w)))[-2]
    eta = (1 - np.sqrt(1 - second**2)) / (1 + np.sqrt(1 - second**2))
    assert algorithm.eta == pytest.approx(eta, rel=1e-12)

    def gossip(start: np.ndarray) -> np.ndarray:
        before, now = start, start
        for _ in range(3):
            before, now = now, (1 + eta) * w @ now - eta * before
        return now

    x, c = np.zeros((PEERS_, SIZE)), np.zeros((PEERS_, SIZE))
    for t in range(5):
        g = gradients(x, t)
        x, c = gossip(x - LR * (g + c)), gossip(g + c) - g
    np.testing.assert_allclose(models(ran(algorithm)), x, rtol=1e-11)


def test_three_accelerated_steps_bring_peers_closer_than_three_plain_ones() -> None:
    w, start = dense(ring(16).rows(0)), np.eye(16)
    eta = DeTAG(mixing=ring(16), gossips=8).eta
    before, now, plain = start, start, start
    for _ in range(8):
        before, now, plain = now, (1 + eta) * w @ now - eta * before, w @ plain
    assert np.abs(now - 1 / 16).max() < 0.7 * np.abs(plain - 1 / 16).max()


@pytest.mark.parametrize("algorithm", [DeTAG], ids=["detag"])
def test_what_accelerated_gossip_cannot_mix_is_refused(algorithm) -> None:
    with pytest.raises(ScenarioError, match="symmetric and the same"):
        algorithm(mixing=PULL)


def test_quasi_global_momentum() -> None:
    x, w, m = np.zeros((PEERS_, SIZE)), dense(ring().rows(0)), np.zeros((PEERS_, SIZE))
    for t in range(6):
        new = w @ (x - LR * (gradients(x, t) + 0.8 * m))
        m = 0.7 * m + 0.3 * (x - new) / LR
        x = new
    done = ran(QGDSGDm(mixing=ring(), beta=0.8, mu=0.7), Until(versions=6))
    np.testing.assert_allclose(models(done), x, rtol=1e-11)


def test_stochastic_gradient_push_keeps_the_sum_and_the_weights() -> None:
    pattern = dense(PULL.rows(0))
    x, w = np.zeros((PEERS_, SIZE)), np.ones(PEERS_)
    for t in range(6):
        pattern = dense(PULL.rows(t)) > 0
        push = pattern / pattern.sum(axis=0)  # columns: what a sender sends to each who hears it
        half = x - LR * gradients(x / w[:, None], t)
        x, w = push @ half, push @ w
    done = ran(SGP(mixing=PULL), Until(versions=6))
    np.testing.assert_allclose(models(done), x / w[:, None], rtol=1e-12)
    assert sum(node.memory["w"] for node in done.nodes) == pytest.approx(PEERS_, rel=1e-12)


def test_relay_sums_are_means_with_the_delay_of_the_way() -> None:
    apart = dict(nx.all_pairs_shortest_path_length(TREE.graph()))
    x, halves = np.zeros((PEERS_, SIZE)), []
    for t in range(9):
        halves.append(x - LR * gradients(x, t))
        rows = []
        for i in range(PEERS_):
            late = [(j, t - max(0, apart[i][j] - 1)) for j in range(PEERS_)]
            rows.append(np.mean([halves[s][j] for j, s in late if s >= 0], axis=0))
        x = np.stack(rows)
    np.testing.assert_allclose(models(ran(RelaySGD(graph=TREE), Until(versions=9))), x, rtol=1e-12)


def test_relaying_needs_a_tree_and_active_peers_need_passive_ones() -> None:
    with pytest.raises(ScenarioError, match="has a cycle"):
        RelaySGD(graph=graphs.Ring(clients=5))
    with pytest.raises(ScenarioError, match="odd length"):
        ADPSGD(graph=graphs.Ring(clients=5))


def test_adpsgd_by_hand() -> None:
    """Two peers; 0 asks and trains 1 s, 1 trains 3 s; a message takes no time. Gradients are those of the start."""
    done = ran(ADPSGD(graph=graphs.Path(clients=2), seed=1), Until(time=3_500_000), seconds=(1.0, 3.0))
    asks = stays = start = np.zeros(SIZE)
    for t in range(3):
        if t == 2:  # both trainings end at 3 s, and the message comes after that
            stays = stays - LR * gradient(1, 0, start)
        step = LR * gradient(0, t, asks)
        asks = stays = (asks + stays) / 2
        asks = asks - step
    np.testing.assert_allclose(models(done), [asks, stays], rtol=1e-12)
    assert done.progress.up == 6 * NBYTES


def test_averaging_in_pairs_keeps_the_sum() -> None:
    """If every training adds one, all have gained together as much as has been trained."""
    made = swarm(ADPSGD(graph=graphs.Ring(clients=PEERS_), seed=2), Until(time=20 * SECOND), seconds=SLOW)
    made.world.executor.train = lambda tasks: [LocalResult(torch.ones(SIZE).double(), 1.0) for _ in tasks]
    made.run()
    assert made.progress.updates > 100
    np.testing.assert_allclose(models(made).sum(axis=0), made.progress.updates, rtol=1e-12)


# Laws of section 3e ---------------------------------------------------------------------------------------------------


def test_on_a_complete_graph_one_step_a_round_is_centralised_sgd() -> None:
    x = np.zeros(SIZE)
    for t in range(5):
        x = x - LR * np.mean([gradient(peer, t, x) for peer in range(PEERS_)], axis=0)
    np.testing.assert_allclose(models(ran(Gossip(mixing=AVERAGE))), np.tile(x, (PEERS_, 1)), rtol=1e-12)


def test_without_gossip_everybody_is_alone() -> None:
    alone, nobody = ran(Local()), ran(Gossip(mixing=Nobody(clients=PEERS_), merge=Never()))
    for ordinal, x in ((5, models(alone)), (5, models(nobody))):
        expected = np.zeros((PEERS_, SIZE))
        for t in range(ordinal):
            expected = expected - LR * gradients(expected, t)
        assert np.array_equal(x, expected)
    assert alone.progress.up == nobody.progress.up == 0


@pytest.mark.parametrize("collective", [collectives.Ring, collectives.Tree, collectives.Direct])
def test_a_global_merge_leaves_no_distance_and_costs_what_it_costs(collective) -> None:
    before = models(ran(Gossip(mixing=PULL, merge=Never()), Until(versions=4)))
    x = before - LR * gradients(before, 4)
    done = ran(Gossip(mixing=PULL, merge=Last(rounds=5), collective=collective()))
    assert len({row.tobytes() for row in models(done)}) == 1
    np.testing.assert_allclose(models(done)[0], x.mean(axis=0), rtol=1e-12)
    pulls = sum(len(row) - 1 for t in range(4) for row in PULL.rows(t))
    merge = PEERS_ * (PEERS_ - 1) if collective is collectives.Direct else 2 * (PEERS_ - 1)
    assert done.progress.up == (pulls + merge) * NBYTES
    assert done.progress.down == 0


def test_the_way_of_merging_changes_time_and_bytes_but_no_number() -> None:
    ways = [ran(Gossip(mixing=PULL, merge=Every(period=2), collective=way()), seconds=(0.5, 1.0, 2.0, 1.0, 0.1, 1.0))
            for way in (collectives.Ring, collectives.Tree, collectives.Direct)]  # fmt: skip
    assert len({models(done).tobytes() for done in ways}) == 1


def test_a_window_of_merges() -> None:
    """Progress 0.4 and 0.6 of 5 rounds, and not the last round."""
    x = np.zeros((PEERS_, SIZE))
    for t in range(5):
        w = np.full((PEERS_, PEERS_), 1 / PEERS_) if t in (1, 2) else dense(PULL.rows(t))
        x = w @ (x - LR * gradients(x, t))
    done = ran(Gossip(mixing=PULL, merge=Window(rounds=5, start=0.4, share=0.4), collective=collectives.Tree()))
    np.testing.assert_allclose(models(done), x, rtol=1e-12)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_looking_at_models_changes_nothing(name) -> None:
    seen = []

    def evaluate(params: list[Tensor]) -> object:
        seen.append(torch.stack(params).mean(0))
        return Progress.__dataclass_fields__["evaluate"].default(params)

    looked = ran(ALGORITHMS[name], every=SECOND // 3, evaluate=evaluate)
    assert len(seen) > 5
    assert models(looked).tobytes() == models(ran(ALGORITHMS[name])).tobytes()


# What holds for all ---------------------------------------------------------------------------------------------------


def line(peers: int = PEERS_) -> nx.Graph:
    """A path whose links are slow enough to be felt."""
    graph = nx.path_graph(peers)
    nx.set_edge_attributes(graph, {edge: {"capacity": 4000.0, "latency": 0.03} for edge in graph.edges})
    return graph


SLOW = (1.0, 0.7, 1.3, 1.0, 2.9, 0.4)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_timeline_is_the_same_whoever_computes(name) -> None:
    runs = {
        executor: ran(ALGORITHMS[name], seconds=SLOW, graph=line(), executor=executor)
        for executor in ("null", "inline", "stacked")
    }
    first, *others = [run.trace.of(TRAIN, UPLOAD, ARRIVE, VERSION) for run in runs.values()]
    assert len(first) > 50
    assert all(rows == first for rows in others)
    assert models(runs["inline"]).tobytes() == models(runs["stacked"]).tobytes()
    assert runs["inline"].world.executor.trained >= 5 * PEERS_


@pytest.mark.parametrize("name", ALGORITHMS)
def test_rounds_end_and_bytes_add_up(name) -> None:
    done = ran(ALGORITHMS[name], seconds=SLOW, graph=line())
    assert done.version == 5
    sent = {(row[2], row[6]): 0 for row in done.trace.of(UPLOAD)}
    assert all(peer != other and other >= 0 for peer, other in sent)
    assert done.progress.up == sum(row[4] for row in done.trace.of(ARRIVE))
    assert [row[3] for row in done.trace.of(VERSION) if row[2] == 4] == [1, 2, 3, 4, 5]
    done.world.carrier.fluid.check()


@pytest.mark.parametrize("name", ["gossip", "dpsgd", "gradient_tracking", "matching", "detag", "qg_dsgdm"])
def test_equals_stay_equal(name) -> None:
    """Equal models and gradients are a fixed point of mixing: everybody does what one would do alone."""
    made = swarm(ALGORITHMS[name])
    made.world.executor.train = lambda tasks: [
        LocalResult(torch.full((SIZE,), -0.5, dtype=torch.float64), 1.0, extra=torch.full((SIZE,), 5.0).double())
        for _ in tasks
    ]
    made.run()
    assert np.ptp(models(made), axis=0) == pytest.approx(0.0, abs=1e-12)


# Time -----------------------------------------------------------------------------------------------------------------


def ends(done: Swarm, round: int = 1) -> list[float]:
    """When each peer has done so many rounds (seconds)."""
    return [row[0] / SECOND for row in sorted(done.trace.of(VERSION), key=lambda row: row[2]) if row[3] == round]


def pair(latency: float = 0.5) -> nx.Graph:
    return nx.Graph([(0, 1, {"capacity": 1000.0, "latency": latency})])


def test_training_and_exchange_overlap_in_dpsgd_and_not_in_gossip() -> None:
    """A message takes 0.5 s and 1 s on its way; both directions share the link, so 2 s if they meet."""
    seconds, path = (4.0, 1.0), Metropolis(clients=2, graph=graphs.Path(clients=2))
    assert ends(ran(DPSGD(mixing=path), Until(versions=1), seconds=seconds, graph=pair())) == [4.0, 2.5]
    # 1 sends from 1 s to 2.5 s; 0 trains until 4 s, by when that has come; what it sends arrives at 5.5 s
    assert ends(ran(Gossip(mixing=path), Until(versions=1), seconds=seconds, graph=pair())) == [4.0, 5.5]


def test_a_ring_all_reduce_in_virtual_time() -> None:
    """Three peers on links of 1000 bytes per second each way: 4 steps of a third of 1000 bytes and 0.1 s latency."""
    graph = nx.DiGraph([(i, j, {"capacity": 1000.0, "latency": 0.1}) for i in range(3) for j in range(3) if i != j])
    merge = Gossip(mixing=Average(clients=3), merge=Last(rounds=1), collective=collectives.Ring())
    done = ran(merge, Until(versions=1), seconds=(1.0, 1.0, 1.0), graph=graph)
    assert max(ends(done)) == pytest.approx(1 + 4 * (0.1 + 334 / 1000), abs=2e-6)
    assert done.progress.up == 4 * NBYTES


def test_nobody_waits_for_peers_that_it_does_not_hear() -> None:
    """The fifth takes 100 s a round; with pulls by chance the others go on until they hear it."""
    seconds = (1.0,) * 5 + (100.0,)
    done = ran(Gossip(mixing=PULL), Until(time=99 * SECOND), seconds=seconds)
    heard = [next(t for t in range(1000) if 5 in PULL.rows(t)[peer]) for peer in range(5)]
    indirectly = [len([row for row in done.trace.of(TRAIN) if row[2] == peer]) for peer in range(5)]
    assert all(0 < trained <= first + 1 for trained, first in zip(indirectly, heard, strict=True))
    assert max(indirectly) > 1


def test_asynchronous_peers_do_not_wait_for_a_slow_neighbour() -> None:
    seconds = (100.0, 1.0, 1.0, 1.0)
    until = Until(time=50 * SECOND)
    trained = {}
    for name, algorithm in (("adpsgd", ADPSGD(graph=graphs.Ring(clients=4), seed=1)), ("dpsgd", DPSGD(mixing=ring(4)))):
        done = ran(algorithm, until, seconds=seconds)
        trained[name] = [len([row for row in done.trace.of(VERSION) if row[2] == peer]) for peer in range(4)]
    assert trained["adpsgd"] == [0, 50, 50, 50]
    assert max(trained["dpsgd"]) <= 2
