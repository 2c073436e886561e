"""Who hears whom, with which weight: the laws that every mixing keeps, and what each adds to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import ScenarioError
from fedsim.mixing import GRAPHS, MERGE, MIXING, Mixing, graphs
from fedsim.mixing.drawn import DirectedPull, Epidemic, Matching
from fedsim.mixing.finite import Base, OnePeerExponential
from fedsim.mixing.fixed import Average, Metropolis, Nobody, Uniform, Weights
from fedsim.mixing.graphs import Overlay
from fedsim.mixing.merging import Every, Last, Merge, Never, Truncate, Window
from fedsim.scenario import builtin

SIZES = [1, 2, 3, 5, 8, 12, 16, 25]
ROUNDS = 4000
"""Enough for frequencies; means of so many rounds are compared to within four or five standard deviations."""


def apart(one: int, other: int) -> float:
    """Seconds between places on a circle whose numbers are not in order: 7 and 25, 16, ... have no factor in common."""
    angle = 2 * math.pi * (7 * one - 7 * other) / 25
    return abs(math.sin(angle / 2))


def links(clients: int) -> nx.DiGraph:
    """A physical network: a ladder of unequal latencies."""
    graph = nx.DiGraph(nx.path_graph(clients))
    graph.add_edges_from((node, node + 2) for node in range(clients - 2))
    nx.set_edge_attributes(graph, 0.01, "latency")
    return graph


OVERLAYS: dict[str, Callable[[int, int], Overlay]] = {
    "network": lambda m, seed: graphs.Physical(clients=m, links=lambda: links(m)),
    "ring": lambda m, seed: graphs.Ring(clients=m),
    "tour": lambda m, seed: graphs.Tour(clients=m, apart=apart),
    "path": lambda m, seed: graphs.Path(clients=m),
    "star": lambda m, seed: graphs.Star(clients=m, apart=apart),
    "star around the last": lambda m, seed: graphs.Star(clients=m, apart=apart, centre=m - 1),
    "binary_tree": lambda m, seed: graphs.BinaryTree(clients=m),
    "spanning_tree": lambda m, seed: graphs.SpanningTree(clients=m, apart=apart),
    "complete": lambda m, seed: graphs.Complete(clients=m),
    "exponential": lambda m, seed: graphs.Exponential(clients=m),
    "grid": lambda m, seed: graphs.Grid(clients=m),
    "torus": lambda m, seed: graphs.Grid(clients=m, wrap=True),
    "random_regular": lambda m, seed: graphs.RandomRegular(clients=m, seed=seed, degree=2),
    "erdos_renyi": lambda m, seed: graphs.ErdosRenyi(clients=m, seed=seed, p=0.5),
}


def overlay(name: str, clients: int, seed: int = 1) -> Overlay:
    return OVERLAYS[name](clients, seed)


MIXINGS: dict[str, Callable[[int, int], Mixing]] = {
    **{f"metropolis on {name}": lambda m, seed, name=name: Metropolis(clients=m, graph=overlay(name, m))
       for name in ("ring", "star", "complete", "grid", "erdos_renyi", "path")},
    **{f"uniform on {name}": lambda m, seed, name=name: Uniform(clients=m, graph=overlay(name, m))
       for name in ("ring", "star", "exponential")},
    "weights": lambda m, seed: Weights(clients=m, matrix=np.full((m, m), 1 / m).tolist()),
    "none": lambda m, seed: Nobody(clients=m),
    "average": lambda m, seed: Average(clients=m),
    "directed_pull of few": lambda m, seed: DirectedPull(clients=m, seed=seed, partners=0.2),
    "directed_pull of many": lambda m, seed: DirectedPull(clients=m, seed=seed, partners=3.5),
    "directed_pull on a graph": lambda m, seed: DirectedPull(
        clients=m, seed=seed, partners=1.5, graph=overlay("exponential", m)
    ),
    "matching": lambda m, seed: Matching(clients=m, seed=seed),
    "matching of some": lambda m, seed: Matching(clients=m, seed=seed, share=0.3),
    "matching on a graph": lambda m, seed: Matching(clients=m, seed=seed, graph=overlay("ring", m)),
    "matching of some on a graph": lambda m, seed: Matching(clients=m, seed=seed, share=0.3, graph=overlay("grid", m)),
    "epidemic": lambda m, seed: Epidemic(clients=m, seed=seed, partners=3),
    "epidemic with an oracle": lambda m, seed: Epidemic(clients=m, seed=seed, partners=2, oracle=True),
    "one_peer_exponential": lambda m, seed: OnePeerExponential(clients=m),
    "base": lambda m, seed: Base(clients=m),
    "base of three neighbours": lambda m, seed: Base(clients=m, degree=3),
}  # fmt: skip
IMPOSSIBLE = {("epidemic", 1), ("epidemic", 2), ("epidemic", 3),
              ("epidemic with an oracle", 1), ("epidemic with an oracle", 2)}  # fmt: skip
EACH = [(name, m) for name in MIXINGS for m in SIZES if (name, m) not in IMPOSSIBLE]
EVERY = pytest.mark.parametrize(("name", "clients"), EACH)
DRAWN = {"directed_pull", "matching", "epidemic"}
PERIODIC = {"one_peer_exponential", "base"}
DOUBLY = {"metropolis", "matching", "average", "none", "weights", *PERIODIC}


def matrix(mixing: Mixing, number: int = 0) -> np.ndarray:
    """W(t), (clients, clients)."""
    rows = mixing.rows(number)
    weights = np.zeros((len(rows), len(rows)))
    for peer, row in enumerate(rows):
        weights[peer, list(row)] = list(row.values())
    return weights


def seldom(share: float, draws: int = ROUNDS) -> float:
    """How far a frequency may be from its probability: five standard deviations."""
    return 5 * math.sqrt(share * (1 - share) / draws)


# The laws of all mixings --------------------------------------------------------------------------------------------


def test_every_member_is_in_the_tables() -> None:
    assert {type(make(8, 1)) for make in MIXINGS.values()} == set(MIXING.values())
    assert {type(make(8, 1)) for make in OVERLAYS.values()} == set(GRAPHS.values())


@EVERY
def test_rows_are_averages_of_what_a_peer_hears_itself_included(name, clients) -> None:
    mixing = MIXINGS[name](clients, 1)
    for number in (0, 1, 2, 7, 10**6):
        rows = mixing.rows(number)
        assert len(rows) == clients
        for peer, row in enumerate(rows):
            assert peer in row
            assert list(row) == sorted(row)
            assert set(row) <= set(range(clients))
            assert all(weight >= 0 for weight in row.values())
            assert math.fsum(row.values()) == pytest.approx(1, abs=1e-12)


@EVERY
def test_columns_sum_to_one_where_that_is_promised(name, clients) -> None:
    mixing = MIXINGS[name](clients, 1)
    if mixing.doubly:
        for number in range(20):
            assert matrix(mixing, number).sum(axis=0) == pytest.approx(np.ones(clients), abs=1e-12)


def test_who_promises_that_columns_sum_to_one() -> None:
    promising = {name for name in MIXINGS if MIXINGS[name](8, 1).doubly}
    assert promising == {name for name in MIXINGS if name.split()[0] in DOUBLY} | {
        "uniform on ring", "uniform on exponential", "epidemic with an oracle"
    }  # fmt: skip
    for name in ("directed_pull of few", "directed_pull of many", "epidemic", "uniform on star"):
        sums = [matrix(MIXINGS[name](8, 1), number).sum(axis=0) for number in range(20)]
        assert np.ptp(sums) > 0.1, name


@EVERY
def test_a_seed_and_a_round_are_the_address_of_a_matrix(name, clients) -> None:
    asked, fresh, other = (MIXINGS[name](clients, seed) for seed in (1, 1, 2))
    rounds = range(40)
    backwards = [asked.rows(number) for number in reversed(rounds)][::-1]
    assert backwards == [fresh.rows(number) for number in rounds]
    if clients > 5:  # among fewer there may be but one way
        kind = name.split()[0]
        assert (backwards != [other.rows(number) for number in rounds]) == (kind in DRAWN)
        assert any(rows != backwards[0] for rows in backwards) == (kind in DRAWN | PERIODIC)


@EVERY
def test_doubly_stochastic_steps_keep_the_mean_and_never_part_the_peers(name, clients) -> None:
    mixing = MIXINGS[name](clients, 1)
    if not mixing.doubly:
        return
    models = np.random.default_rng(0).normal(size=(clients, 3))
    for number in range(10):
        mixed = matrix(mixing, number) @ models
        assert mixed.mean(axis=0) == pytest.approx(models.mean(axis=0), abs=1e-12)
        assert spread(mixed) <= spread(models) + 1e-24
        models = mixed


def spread(models: np.ndarray) -> float:
    """The squared distance of the peers from their mean, all together."""
    return float(((models - models.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize(("name", "clients"), sorted(IMPOSSIBLE))
def test_too_few_clients_are_refused(name, clients) -> None:
    with pytest.raises(ScenarioError, match=f"mixing: epidemic: {clients} clients cannot send to . others each"):
        MIXINGS[name](clients, 1)


# Fixed mixings ------------------------------------------------------------------------------------------------------


def test_metropolis_of_three_in_a_row() -> None:
    """Degrees 1, 2, 1: each link weighs 1 / (1 + 2), and the ends keep 2/3."""
    expected = [[2 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 3, 2 / 3]]
    assert matrix(Metropolis(clients=3, graph=graphs.Path(clients=3))) == pytest.approx(np.array(expected))


def test_uniform_of_three_in_a_row() -> None:
    expected = [[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 2, 1 / 2]]
    assert matrix(Uniform(clients=3, graph=graphs.Path(clients=3))) == pytest.approx(np.array(expected))


@given(st.integers(2, 20), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_metropolis_reaches_consensus_on_every_connected_graph(clients, seed) -> None:
    weights = matrix(Metropolis(clients=clients, graph=graphs.ErdosRenyi(clients=clients, seed=seed, p=0.5)))
    assert (weights == weights.T).all()
    values = np.sort(np.abs(np.linalg.eigvalsh(weights)))
    assert values[-1] == pytest.approx(1)
    assert values[-2] < 1 - 1e-6


def test_average_and_none() -> None:
    assert (matrix(Average(clients=5)) == 1 / 5).all()
    assert (matrix(Nobody(clients=5)) == np.eye(5)).all()


def test_the_user_s_weights(tmp_path) -> None:
    table = [[0.5, 0.5, 0], [0.25, 0, 0.75], [0, 0.1, 0.9]]
    (tmp_path / "w.csv").write_text("\n".join(",".join(map(str, row)) for row in table) + "\n\n")
    mixing = Weights(clients=3, matrix=table)
    assert matrix(mixing) == pytest.approx(np.array(table))
    assert mixing.rows(3)[1] == {0: 0.25, 1: 0, 2: 0.75}
    assert not mixing.doubly
    assert Weights(clients=3, matrix=[[0, 1, 0], [0, 0, 1], [1, 0, 0]]).doubly
    for path in (tmp_path / "w.csv", "w.csv"):
        assert Weights(clients=3, file=path, folders=[tmp_path]).rows(0) == mixing.rows(0)


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ([[1, 0], [0, 1]], "has 2 rows for 3 clients"),
        ([[1, 0, 0], [0, 1], [0, 0, 1]], "row 1 has 2 weights for 3 clients"),
        ([[1, 0, 0], [0, 1, 0], [0, 0.5, 0.4]], "row 2 sums to 0.9: expected 1"),
        ([[1, 0, 0], [0, 1, 1e-8], [0, 0, 1]], "row 1 sums to 1.00000001"),
        ([[1, 0, 0], [-0.5, 1.5, 0], [0, 0, 1]], "row 1 has the weight -0.5: expected numbers of at least 0"),
        ([[1, 0, 0], [0, 1, 0], [0, 0, math.nan]], "row 2 has the weight nan"),
    ],
)
def test_bad_weights_are_refused(table, fault) -> None:
    with pytest.raises(ValueError, match=fault):
        Weights(clients=3, matrix=table)


def test_weights_need_one_source_of_numbers(tmp_path) -> None:
    for given_ in ({}, {"matrix": [[1]], "file": tmp_path}):
        with pytest.raises(ValueError, match="needs either a file or a matrix"):
            Weights(clients=1, **given_)
    (tmp_path / "w.csv").write_text("1,0\n0,one\n")
    with pytest.raises(ScenarioError, match=r"w\.csv, line 2: could not convert string to float: 'one'"):
        Weights(clients=2, file=tmp_path / "w.csv")
    with pytest.raises(ScenarioError, match=r"none\.csv is in no data folder"):
        Weights(clients=2, file=tmp_path / "none.csv")


# Drawn mixings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("peers", "sure"), [(0, 0), (0.2, 0), (1, 1), (2.5, 2), (4, 4), (7, 4)])
def test_directed_pull_hears_floor_or_one_more(peers, sure) -> None:
    mixing = DirectedPull(clients=5, seed=1, partners=peers)
    heard = np.array([[len(row) - 1 for row in mixing.rows(number)] for number in range(ROUNDS)])
    more = min(peers, 4) - sure
    assert set(heard.ravel()) == ({sure, sure + 1} if more else {sure})
    assert heard.mean(axis=0) == pytest.approx(np.full(5, sure + more), abs=seldom(more) + 1e-12)
    assert {weight for row in mixing.rows(3) for weight in row.values()} <= {1 / (1 + sure), 1 / (2 + sure)}


@pytest.mark.parametrize("peers", [0.2, 1.0, 2.5])
def test_directed_pull_keeps_the_mean_in_expectation_alone(peers) -> None:
    """E[W] is c on the diagonal and the same elsewhere: c = (1 - frac) / (1 + floor) + frac / (2 + floor)."""
    mixing = DirectedPull(clients=5, seed=1, partners=peers)
    every = np.array([matrix(mixing, number) for number in range(ROUNDS)])
    sure, more = divmod(peers, 1)
    own = (1 - more) / (1 + sure) + more / (2 + sure)
    expected = np.full((5, 5), (1 - own) / 4)
    np.fill_diagonal(expected, own)
    assert every.mean(axis=0) == pytest.approx(expected, abs=5 * every.std(axis=0).max() / math.sqrt(ROUNDS))
    sums = every.sum(axis=1)
    assert sums.mean(axis=0) == pytest.approx(np.ones(5), abs=5 * sums.std() / math.sqrt(ROUNDS))
    assert sums.std() > 0.1


def test_directed_pull_draws_only_neighbours() -> None:
    graph = graphs.Ring(clients=8)
    mixing = DirectedPull(clients=8, seed=1, partners=1, graph=graph)
    heard = sum(matrix(mixing, number) > 0 for number in range(200))
    assert ((heard > 0) == nx.to_numpy_array(graph.graph(), nodelist=range(8)) + np.eye(8)).all()
    assert (np.diag(heard) == 200).all()
    every = DirectedPull(clients=8, seed=1, partners=5, graph=graph)
    assert every.rows(0) == Uniform(clients=8, graph=graph).rows(0)


def test_peers_draw_independently() -> None:
    mixing = DirectedPull(clients=4, seed=1, partners=0.5)
    heard = np.array([[len(row) > 1 for row in mixing.rows(number)] for number in range(ROUNDS)])
    assert np.abs(np.corrcoef(heard.T) - np.eye(4)).max() < 5 / math.sqrt(ROUNDS)
    assert abs(np.corrcoef(heard[1:, 0], heard[:-1, 0])[0, 1]) < 5 / math.sqrt(ROUNDS)


@pytest.mark.parametrize("name", ["matching", "matching of some", "matching on a graph", "matching of some on a graph"])
@pytest.mark.parametrize("clients", SIZES)
def test_matchings_are_symmetric_pairs(name, clients) -> None:
    mixing = MIXINGS[name](clients, 1)
    for number in range(20):
        weights = matrix(mixing, number)
        assert (weights == weights.T).all()
        assert np.isin(weights, (0, 0.5, 1)).all()
        assert (np.count_nonzero(weights, axis=1) <= 2).all()


@pytest.mark.parametrize(
    ("clients", "share", "meet"), [(6, 1, 6), (7, 1, 6), (6, 0.5, 3), (7, 0.5, 3.5), (8, 0.1, 0.8), (6, 0, 0)]
)
def test_a_share_of_the_peers_meets_somebody(clients, share, meet) -> None:
    mixing = Matching(clients=clients, seed=1, share=share)
    met = np.array([np.count_nonzero(np.diag(matrix(mixing, number)) < 1) for number in range(ROUNDS)])
    assert met.mean() == pytest.approx(meet, abs=2 * seldom((meet / 2) % 1) + 1e-12)
    assert set(met) <= {2 * math.floor(meet / 2), 2 * math.ceil(meet / 2)}


def test_all_matchings_are_equally_likely() -> None:
    mixing = Matching(clients=4, seed=1)
    partners = [max(mixing.rows(number)[0]) for number in range(ROUNDS)]
    for other in (1, 2, 3):
        assert partners.count(other) / ROUNDS == pytest.approx(1 / 3, abs=seldom(1 / 3))


@pytest.mark.parametrize("clients", SIZES)
def test_a_matching_of_a_graph_is_maximal_and_uses_its_links_alone(clients) -> None:
    graph = overlay("grid", clients).graph()
    mixing = Matching(clients=clients, seed=1, graph=overlay("grid", clients))
    used = set()
    for number in range(200):
        weights = matrix(mixing, number)
        pairs = {(one, other) for one, other in combinations(range(clients), 2) if weights[one, other]}
        assert pairs <= {tuple(sorted(edge)) for edge in graph.edges}
        assert nx.is_maximal_matching(graph, pairs)
        used |= pairs
    assert used == {tuple(sorted(edge)) for edge in graph.edges}


@pytest.mark.parametrize("clients", [4, 6, 8])
def test_a_matching_contracts_as_fast_as_theory_says(clients) -> None:
    """E|WX - mean|^2 <= (1 - p)|X - mean|^2, p = 1 - lambda_2(E[W'W]); equal here, as all pairs are alike.

    For perfect matchings W'W = W, and E[W] has 1/2 on its diagonal, 1 / (2 (m - 1)) elsewhere.
    """
    mixing = Matching(clients=clients, seed=1)
    every = np.array([matrix(mixing, number) for number in range(ROUNDS)])
    expected = np.full((clients, clients), 1 / (2 * (clients - 1)))
    np.fill_diagonal(expected, 1 / 2)
    second = np.linalg.eigvalsh(expected)[-2]
    assert second == pytest.approx((clients - 2) / (2 * (clients - 1)))
    products = every.transpose(0, 2, 1) @ every
    assert products.mean(axis=0) == pytest.approx(expected, abs=seldom(expected[0, 1] * 2))
    models = np.random.default_rng(0).normal(size=(clients, 3))
    after = np.array([spread(weights @ models) for weights in every])
    assert after.mean() == pytest.approx(second * spread(models), abs=5 * after.std() / math.sqrt(ROUNDS))


def test_epidemic_sends_to_so_many_others() -> None:
    local, oracle = (Epidemic(clients=7, seed=1, partners=3, oracle=oracle) for oracle in (False, True))
    for number in range(50):
        sent, heard = (np.count_nonzero(matrix(local, number), axis=axis) - 1 for axis in (0, 1))
        assert (sent == 3).all()
        assert heard.sum() == 21
        assert (np.count_nonzero(matrix(oracle, number), axis=0) == 4).all()
        assert (np.count_nonzero(matrix(oracle, number), axis=1) == 4).all()
    assert {len(row) for number in range(50) for row in local.rows(number)} >= {2, 3, 4, 5, 6}


@pytest.mark.parametrize("oracle", [False, True])
def test_epidemic_hears_everybody_equally_often(oracle) -> None:
    mixing = Epidemic(clients=5, seed=1, partners=2, oracle=oracle)
    heard = sum(matrix(mixing, number) > 0 for number in range(ROUNDS)) / ROUNDS
    expected = np.full((5, 5), 2 / 4)
    np.fill_diagonal(expected, 1)
    assert heard == pytest.approx(expected, abs=seldom(0.5))


def test_el_oracle_draws_who_and_how_far() -> None:
    """With one sender each there are as many cycles as the offset and 6 have in common, and not among neighbours."""
    mixing = Epidemic(clients=6, seed=1, partners=1, oracle=True)
    every = [matrix(mixing, number) > 0 for number in range(200)]
    cycles = [nx.number_weakly_connected_components(nx.DiGraph(heard)) for heard in every]
    assert set(cycles) == {1, 2, 3}
    assert any((np.roll(heard, 1, axis=(0, 1)) != heard).any() for heard in every)


def test_el_oracle_contracts_as_every_random_regular_digraph() -> None:
    """All peers are alike, so E[W'W], of trace m / (s + 1), has one eigenvalue besides 1, m - 1 times."""
    mixing = Epidemic(clients=6, seed=1, partners=2, oracle=True)
    models = np.random.default_rng(0).normal(size=(6, 3))
    after = np.array([spread(matrix(mixing, number) @ models) for number in range(ROUNDS)])
    expected = (6 / 3 - 1) / 5 * spread(models)
    assert after.mean() == pytest.approx(expected, abs=5 * after.std() / math.sqrt(ROUNDS))


# Mixings that average exactly in the end ------------------------------------------------------------------------------


def product(mixing: OnePeerExponential | Base, start: int = 0) -> np.ndarray:
    """W(start + period - 1) ... W(start)."""
    whole = np.eye(mixing.clients)
    for number in range(start, start + mixing.period):
        whole = matrix(mixing, number) @ whole
    return whole


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@pytest.mark.parametrize("clients", range(1, 41))
def test_a_period_of_the_base_graph_averages_any_number_of_peers(clients, degree) -> None:
    mixing = Base(clients=clients, degree=degree)
    assert product(mixing) == pytest.approx(np.full((clients, clients), 1 / clients), abs=1e-12)
    for number in range(mixing.period):
        weights = matrix(mixing, number)
        assert (np.count_nonzero(weights, axis=1) <= degree + 1).all()
        assert weights == pytest.approx(weights.T, abs=1e-15)
        assert (np.diag(weights) > 0).all()
    assert mixing.rows(mixing.period + 1) == mixing.rows(1)
    assert mixing.period <= 2 * math.log(clients, degree + 1) + 2


@pytest.mark.parametrize(
    ("clients", "degree", "period"),
    [(1, 1, 1), (2, 1, 1), (8, 1, 3), (3, 1, 3), (5, 1, 5), (6, 1, 4), (7, 1, 5), (25, 1, 9), (3, 2, 1), (5, 2, 3),
     (25, 4, 2), (12, 3, 2), (5, 4, 1)],
)  # fmt: skip
def test_lengths_of_the_base_graph(clients, degree, period) -> None:
    """By hand: of 5 = 4 + 1, four take 2 rounds to agree, 1 to meet the fifth, 2 to settle; 6 = 2 * 3 takes 3 for each
    half, and 1 across."""
    assert Base(clients=clients, degree=degree).period == period


def test_three_peers_in_pairs() -> None:
    """3 = 2 + 1: the two average; the third takes 2/3 of one of them, which keeps 2/3; the two average again."""
    pair = [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
    meet = [[1 / 3, 0, 2 / 3], [0, 1, 0], [2 / 3, 0, 1 / 3]]
    mixing = Base(clients=3)
    assert [matrix(mixing, number) for number in range(3)] == [
        pytest.approx(np.array(expected)) for expected in (pair, meet, pair)
    ]


@pytest.mark.parametrize(
    ("clients", "degree", "expected"),
    [
        (5, 1, [{(0, 1), (2, 3)}, {(0, 2), (1, 3)}, {(0, 4), (1, 2)}, {(0, 1), (2, 3)}, {(0, 2), (1, 3)}]),
        (5, 2, [{(0, 1), (0, 2), (1, 2), (3, 4)}, {(0, 3), (1, 4)}, {(0, 1), (0, 2), (1, 2), (3, 4)}]),
        (6, 1, [{(0, 1), (3, 4)}, {(0, 2), (3, 5)}, {(0, 1), (3, 4)}, {(0, 3), (1, 4), (2, 5)}]),
    ],
)
def test_who_hears_whom_in_the_base_graph(clients, degree, expected) -> None:
    """Whoever has nobody to meet hears others that are idle too: it costs no round, and models differ in learning."""
    mixing = Base(clients=clients, degree=degree)
    pairs = [set(zip(*np.nonzero(np.triu(matrix(mixing, number), 1)), strict=True)) for number in range(mixing.period)]
    assert pairs == expected


@pytest.mark.parametrize("clients", [1, 2, 4, 8, 16, 32])
def test_one_peer_exponential_averages_powers_of_two(clients) -> None:
    mixing = OnePeerExponential(clients=clients)
    assert mixing.period == max(1, math.ceil(math.log2(clients)))
    for start in range(3):
        assert product(mixing, start) == pytest.approx(np.full((clients, clients), 1 / clients), abs=1e-12)


def test_one_peer_exponential_does_not_average_others() -> None:
    mixing = OnePeerExponential(clients=6)
    assert [mixing.rows(number)[5] for number in range(4)] == [
        {0: 0.5, 5: 0.5}, {1: 0.5, 5: 0.5}, {3: 0.5, 5: 0.5}, {0: 0.5, 5: 0.5}
    ]  # fmt: skip
    assert np.abs(product(mixing) - 1 / 6).max() > 0.05


# Graphs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", SIZES)
@pytest.mark.parametrize("name", OVERLAYS)
def test_graphs_connect_the_clients_in_order(name, clients) -> None:
    if name == "random_regular" and clients < 3:
        with pytest.raises(ScenarioError, match=f"graph: no {clients} clients have 2 neighbours each"):
            overlay(name, clients).graph()
        return
    graph = overlay(name, clients).graph()
    assert list(graph) == list(range(clients))
    assert nx.is_connected(graph)
    assert not nx.number_of_selfloops(graph)
    assert not graph.is_directed()
    assert graph.edges == overlay(name, clients).graph().edges


@pytest.mark.parametrize("clients", SIZES[2:])
def test_graphs_are_what_they_are_called(clients) -> None:
    cycle, alone = nx.cycle_graph(clients), nx.path_graph(clients)
    for name, like in {
        "ring": cycle, "tour": cycle, "random_regular": cycle, "path": alone, "complete": nx.complete_graph(clients),
        "star": nx.star_graph(clients - 1), "star around the last": nx.star_graph(clients - 1),
        "network": links(clients).to_undirected(),
    }.items():  # fmt: skip
        assert nx.is_isomorphic(overlay(name, clients).graph(), like), name
    assert overlay("ring", clients).graph().edges == cycle.edges
    assert nx.is_tree(overlay("binary_tree", clients).graph())
    assert sorted(overlay("binary_tree", clients).graph()[0]) == [1, 2]
    assert max(dict(overlay("binary_tree", clients).graph().degree).values()) <= 3


def test_links_of_the_exponential_graph() -> None:
    graph = graphs.Exponential(clients=12).graph()
    assert sorted(graph[0]) == [1, 2, 4, 8, 10, 11]


def test_grids_are_as_square_as_can_be_or_as_is_said() -> None:
    for clients, rows, columns in ((12, 3, 4), (16, 4, 4), (5, 1, 5)):
        for wrap in (False, True):
            expected = nx.grid_2d_graph(rows, columns, periodic=wrap)
            assert nx.is_isomorphic(graphs.Grid(clients=clients, wrap=wrap).graph(), expected)
    assert nx.is_isomorphic(graphs.Grid(clients=12, rows=6).graph(), nx.grid_2d_graph(6, 2))
    with pytest.raises(ScenarioError, match="grid of 5 rows: 12 clients do not fill them"):
        graphs.Grid(clients=12, rows=5).graph()


def test_random_graphs_are_drawn_by_their_seed_and_until_connected() -> None:
    regular = [graphs.RandomRegular(clients=16, seed=seed, degree=3).graph() for seed in range(20)]
    assert all(nx.is_k_regular(graph, 3) and nx.is_connected(graph) for graph in regular)
    sparse = [graphs.ErdosRenyi(clients=12, seed=seed, p=0.2).graph() for seed in range(20)]
    assert all(nx.is_connected(graph) for graph in sparse)
    for every in (regular, sparse):
        assert len({tuple(sorted(map(tuple, map(sorted, graph.edges)))) for graph in every}) == 20
    with pytest.raises(ScenarioError, match="no 5 clients have 3 neighbours each"):
        graphs.RandomRegular(clients=5, seed=1, degree=3).graph()
    with pytest.raises(ScenarioError, match="graph: an Erdos-Renyi graph of 12 clients with p = 0 was not connected"):
        graphs.ErdosRenyi(clients=12, seed=1, p=0).graph()


def on_a_line(*places: float) -> Callable[[int, int], float]:
    """Seconds between places on a line."""
    return lambda one, other: abs(places[one] - places[other])


def test_the_star_s_centre_is_the_most_central_client() -> None:
    apart = on_a_line(0, 0.3, 0.9, 0.4, 0.1)
    assert max(graphs.Star(clients=5, apart=apart).graph().degree, key=lambda pair: pair[1])[0] == 1
    assert sorted(graphs.Star(clients=4, apart=on_a_line(0, 0, 0, 0)).graph()[0]) == [1, 2, 3]
    with pytest.raises(ScenarioError, match="graph: star: centre: there is no client 5 among 5"):
        graphs.Star(clients=5, apart=apart, centre=5).graph()


def test_the_spanning_tree_is_the_shortest() -> None:
    tree = graphs.SpanningTree(clients=5, apart=on_a_line(0, 0.3, 0.9, 0.4, 0.1)).graph()
    assert {tuple(sorted(edge)) for edge in tree.edges} == {(0, 4), (1, 4), (1, 3), (2, 3)}


def test_the_tour_goes_round_the_circle() -> None:
    """The clients stand on a circle, out of order; around it is the shortest way, which the ring by numbers is not."""
    tour = graphs.Tour(clients=25, apart=apart).graph()
    length = {graph: sum(apart(*edge) for edge in graph.edges) for graph in (tour, graphs.Ring(clients=25).graph())}
    shortest = 25 * math.sin(math.pi / 25)
    assert shortest - 1e-9 <= length[tour] <= 1.5 * shortest
    assert max(length.values()) > 3 * shortest
    four = graphs.Tour(clients=4, apart=on_a_line(0, 0.3, 0.1, 0.2)).graph()
    assert {tuple(sorted(edge)) for edge in four.edges} == {(0, 2), (2, 3), (1, 3), (0, 1)}


def test_a_graph_that_falls_apart_is_refused() -> None:
    apart = graphs.Physical(clients=4, links=lambda: nx.Graph([(0, 1), (2, 3)]))
    with pytest.raises(ScenarioError, match="graph: the clients are not all connected with each other"):
        apart.graph()


# Schedules of global merges -----------------------------------------------------------------------------------------


def dense(merge: Merge, rounds: int) -> list[int]:
    """The rounds that end in a global average."""
    merge = replace(merge, rounds=rounds)
    return [number for number in range(rounds) if merge.dense(number)]


@pytest.mark.parametrize(
    ("merge", "rounds", "expected"),
    [
        (Never(), 10, []),
        (Last(), 10, [9]),
        (Last(), 1, [0]),
        (Every(period=3), 10, [2, 5, 8]),
        (Every(period=1), 3, [0, 1, 2]),
        (Truncate(start=0.8), 10, [7, 8, 9]),
        (Truncate(start=0.997), 300, [299]),
        (Truncate(start=0.0), 4, [0, 1, 2, 3]),
        (Truncate(start=1.0), 4, [3]),
        (Window(start=0.1, share=0.2), 10, [0, 1]),
        (Window(start=0.5, share=0.1), 20, [9, 10]),
        (Window(start=0.9, share=0.05), 300, list(range(269, 284))),
        (Window(start=0.9, share=0.1), 10, [8]),
        (Window(start=0.9, share=0.2), 10, [8, 9]),
        (Window(start=0.0, share=0.1), 10, []),
        (Window(start=0.5, share=0.0), 10, []),
        (Window(start=0.0, share=1.0), 3, [0, 1]),
    ],
)
def test_rounds_that_end_in_a_global_average(merge, rounds, expected) -> None:
    assert dense(merge, rounds) == expected


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("start", [0.1, 0.5, 0.9])
def test_a_window_has_its_share_of_the_rounds_and_never_the_last(start, share) -> None:
    """Those of the published sweep, at 300 rounds; in binary some would be a round longer."""
    rounds = dense(Window(start=start, share=share), 300)
    assert len(rounds) == round(300 * share)
    assert rounds[0] == round(300 * start) - 1
    assert 299 not in rounds


@pytest.mark.parametrize("merge", [Last(), Window(start=0.5, share=0.1), Truncate(start=0.5)])
def test_schedules_of_the_whole_run_need_its_length(merge) -> None:
    with pytest.raises(ScenarioError, match=r"merge: .* set until\.versions"):
        merge.dense(3)


def test_schedules_without_end_do_not() -> None:
    assert not Never().dense(3)
    assert [Every(period=2).dense(number) for number in range(4)] == [False, True, False, True]


def test_every_schedule_is_in_the_family() -> None:
    shown = Never(), Last(), Every(period=1), Truncate(start=0.5), Window(start=0.5, share=0.1)
    assert {type(merge) for merge in shown} == set(MERGE.values())


# In a scenario ------------------------------------------------------------------------------------------------------


def built(family: str, said: object, **given: object) -> Mixing:
    schema = builtin()
    return schema.build(schema.choice(family).model_validate(said), given, (family,), str)


def test_a_scenario_names_a_mixing_and_its_graph() -> None:
    everything = {"clients": 8, "seed": 3, "folders": (), "apart": apart, "links": lambda: links(8)}
    for graph in GRAPHS:
        said = {graph: {"p": 0.5}} if graph == "erdos_renyi" else graph
        mixing = built("mixing", {"metropolis": {"graph": said}}, **everything)
        assert type(mixing.graph) is GRAPHS[graph]
        assert len(mixing.rows(0)) == 8
    pull = built("mixing", {"directed_pull": {"partners": 0.2}}, **everything)
    assert pull.rows(5) == DirectedPull(clients=8, seed=3, partners=0.2).rows(5)
    met = built("mixing", {"matching": {"graph": "ring", "share": 0.5}}, **everything)
    assert met == Matching(clients=8, seed=3, share=0.5, graph=graphs.Ring(clients=8))
    assert built("merge", {"window": {"start": 0.9, "share": 0.1}}) == Window(start=0.9, share=0.1)
    assert built("mixing", {"weights": {"matrix": np.eye(8).tolist()}}, **everything).rows(0)[2] == {2: 1.0}
