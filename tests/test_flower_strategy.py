"""Our server algorithms as Strategies of Flower's: the same weights as in the simulator, on a real `Strategy.start`."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="Flower is not installed")

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from servers import SIZE, census, roster, start
from worlds import Recording, Windows, changed, devices

from fedsim.aggregators import AGGREGATORS, SCAFFOLD, SFAT, Aggregator, FedAvg, FedBuff, FedNova, FedProx, FedStale
from fedsim.experiment import Experiment
from fedsim.fleet import Fleet
from fedsim.flower.keys import App
from fedsim.flower.strategy import AggregatorStrategy, tensors
from fedsim.flower.superlink import SuperLink
from fedsim.flower.virtual import serve
from fedsim.flower.virtual_grid import VirtualGrid
from fedsim.network import Star
from fedsim.progress import Progress, Until
from fedsim.roster import Census, Roster
from fedsim.selection import Uniform
from fedsim.trace import START
from fedsim.units import FOREVER
from fedsim.work import LocalTask

ROUNDS = 4
SCENARIO: dict[str, Any] = {
    "seed": 2,
    "until": {"versions": ROUNDS},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.5}}}},
    "model": {"mlp": {"hidden": [8]}},
    "fleet": {"clients": 5, "devices": "fedscale"},
    "local": {"epochs": 1, "batch": 32, "optimizer": {"sgd": {"lr": 0.1}}},
    "evaluate": {"every": "1 d"},
}


def grid_over(client: ClientApp, clients: int, **fleet: Any) -> Any:
    """On links that cost nothing; everybody takes a second for an example."""
    graph = Star(latency=0, server_up=inf, server_down=inf).graph(*[[inf] * clients] * 2)
    progress = Progress(Until(time=FOREVER), FOREVER, evaluate=lambda told: told)
    return VirtualGrid(SuperLink(Fleet(devices(*[1.0] * clients), seed=1, **fleet), graph, client, {}, App(),
                                 Recording(), progress))  # fmt: skip


def started(strategy: AggregatorStrategy, arrays: ArrayRecord, grid: Any, rounds: int = ROUNDS) -> Any:
    """The result of a real `Strategy.start` within a ServerApp."""
    results: list[Any] = []
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Any) -> None:
        results.append(strategy.start(grid, arrays, num_rounds=rounds))

    serve(app, grid)
    return results[0]


def learner(made: Experiment) -> ClientApp:
    """The local training of an experiment, as any ClientApp: the model in, the model out."""
    app = ClientApp()
    ordinals: dict[int, int] = {}

    @app.train()
    def train(message: Any, context: Any) -> Message:
        number = int(context.node_config["partition-id"])
        params = made.layout.join(tensors(message.content["arrays"]))
        ordinals[number] = ordinals.get(number, -1) + 1
        steps = made.work.steps[number]
        mu = message.content["config"].get("proximal-mu")
        drift = None if mu is None else FedProx(params, roster(), mu=mu).drift
        [result] = made.trainer([LocalTask(number, params, ordinals[number], steps)], drift=drift)
        arrays = {name: Array(own.numpy()) for name, own in made.layout.unflatten(params + result.delta).items()}
        told = MetricRecord({"num-examples": made.work.held[number], "steps": steps, "loss": result.loss})
        return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": told}), reply_to=message)

    return app


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fedavg", {"cohort": "all"}),
        ("fedavg", {"cohort": "all", "weights": "uniform", "lr": 0.5}),
        ("fedprox", {"cohort": "all", "mu": 0.3}),
        ("fednova", {"cohort": "all"}),
        ("sfat", {"cohort": "all"}),
        ("fedavgm", {"cohort": "all"}),
        ("fedadam", {"cohort": "all", "lr": 0.01}),
        ("fedstale", {"beta": 0.5}),
        ("fedvarp", {}),
    ],
)
def test_the_same_weights_as_in_the_simulator(name, arguments) -> None:
    made, simulation = changed(SCENARIO, aggregator={name: arguments})
    book = Census(dict(enumerate(made.work.held)), share=lambda client: 1.0)
    given = {"params": torch.zeros_like(made.params), "roster": Roster(Uniform(seed=2), census=book),
             "local_momentum": 0.0}  # fmt: skip
    aggregator = made.arm.build(given, "aggregator")
    grid = grid_over(learner(made), 5)
    first = ArrayRecord({name: Array(own.numpy()) for name, own in made.layout.unflatten(made.params).items()})
    result = started(AggregatorStrategy(aggregator, fraction_evaluate=0.0), first, grid)
    found = made.layout.join(tensors(result.arrays))
    assert torch.allclose(found, simulation.aggregator.params, atol=2e-6, rtol=1e-5)
    assert not torch.allclose(found, made.params, atol=1e-3)
    assert aggregator.version == simulation.aggregator.version == ROUNDS
    assert list(result.train_metrics_clientapp[1]) == ["steps", "loss"]


# Rounds in which not everything goes well ---------------------------------------------------------------------------


def mover(do: Callable[[Any, int], None] = lambda message, number: None) -> ClientApp:
    """Each client moves the model by its number and one; two arrays of one type."""
    app = ClientApp()

    def answer(message: Any, context: Any) -> Message:
        number = int(context.node_config["partition-id"])
        do(message, number)
        moved = {name: Array(array.numpy() + number + 1) for name, array in message.content["arrays"].items()}
        told = MetricRecord({"num-examples": 10, "accuracy": 0.5})
        return Message(RecordDict({"arrays": ArrayRecord(moved), "metrics": told}), reply_to=message)

    app.train()(answer)
    app.evaluate()(answer)
    return app


MODEL = {"a": np.zeros((2, 1), np.float32), "b": np.zeros(3, np.float32)}


def arrays(**changes: np.ndarray) -> ArrayRecord:
    """Of SIZE numbers."""
    return ArrayRecord({name: Array(array) for name, array in {**MODEL, **changes}.items()})


def model_of(result: Any) -> float:
    """The one number that all of a mover's are."""
    [number] = {float(each) for array in result.arrays.values() for each in array.numpy().ravel()}
    return number


def averaging(**arguments: Any) -> AggregatorStrategy:
    """FedAvg over everybody."""
    return AggregatorStrategy(FedAvg(start(), roster(), **{"cohort": "all", **arguments}), fraction_evaluate=0.0)


def test_names_and_shapes_stay_and_evaluation_is_flowers_own() -> None:
    strategy = AggregatorStrategy(FedAvg(start(), roster(), cohort="all"))
    result = started(strategy, arrays(), grid_over(mover(), 3), rounds=2)
    assert {name: array.shape for name, array in result.arrays.items()} == {"a": (2, 1), "b": (3,)}
    assert model_of(result) == 4.0
    assert result.evaluate_metrics_clientapp[2]["accuracy"] == 0.5
    assert result.train_metrics_clientapp[1]["accuracy"] == 0.5
    double = {name: array.astype(np.float64) for name, array in MODEL.items()}
    result = started(averaging(), arrays(**double), grid_over(mover(), 3), rounds=1)
    assert result.arrays["a"].numpy().dtype == np.float64


def test_a_cohort_is_whom_the_aggregator_selects() -> None:
    grid = grid_over(mover(), 6)
    started(averaging(cohort=2), arrays(), grid, rounds=3)
    asked = [row[2] for row in grid.link.trace.of(START)]
    assert len(asked) == 6
    assert all(asked[place] != asked[place + 1] for place in (0, 2, 4))
    expected = Roster(Uniform(seed=1))
    expected.join(range(6))
    assert sorted(asked[:2]) == sorted(expected.start(2, 0))


def test_an_error_is_a_client_that_has_gone_away_and_may_come_back() -> None:
    asked: list[tuple[int, int]] = []

    def fail_once(message: Any, number: int) -> None:
        turn = int(message.content["config"]["server-round"])
        asked.append((turn, number))
        if (turn, number) == (1, 2):
            raise ValueError("not now")

    result = started(averaging(), arrays(), grid_over(mover(fail_once), 3), rounds=3)
    assert sorted(asked) == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]
    assert model_of(result) == pytest.approx(1.5 + 1.5 + 2.0)


def test_a_round_in_which_all_fail_changes_nothing_and_the_next_one_works() -> None:
    def fail_first(message: Any, number: int) -> None:
        if message.content["config"]["server-round"] == 1:
            raise ValueError("not now")

    strategy = averaging()
    result = started(strategy, arrays(), grid_over(mover(fail_first), 3), rounds=2)
    assert model_of(result) == 2.0
    assert strategy.aggregator.version == 1
    assert list(result.train_metrics_clientapp) == [2]


def test_updates_that_are_not_finite_are_refused(caplog) -> None:
    def poison(message: Any, number: int) -> None:
        if number == 1:
            message.content["arrays"]["a"] = Array(np.full((2, 1), np.nan, np.float32))

    result = started(averaging(), arrays(), grid_over(mover(poison), 3), rounds=1)
    assert model_of(result) == 2.0, "the mean of 1 and 3"
    assert "the update of client 1 was refused: it is infinite" in caplog.text


def test_nodes_that_come_later_take_part_later_and_it_waits_for_the_first() -> None:
    strategy = averaging(minimum=1, cohort=2)
    grid = grid_over(mover(), 2, availability=Windows(c0=[(100, inf)], c1=[(100, inf)]))
    result = started(strategy, arrays(), grid, rounds=2)
    assert grid.link.trace.of(START)[0][0] == 100_000_000
    assert model_of(result) == 3.0


def test_updates_are_summed_in_the_order_of_numbers_not_of_answers() -> None:
    heard = []

    class Watching(FedAvg):
        def direction(self, updates: Any) -> Any:
            heard.append([update.client for update in updates])
            assert all(update.duration >= 1 for update in updates)
            return super().direction(updates)

    strategy = AggregatorStrategy(Watching(start(), roster(), cohort="all"), fraction_evaluate=0.0)
    started(strategy, arrays(), grid_over(mover(), 4), rounds=2)
    assert heard == [[0, 1, 2, 3]] * 2


# What is refused ----------------------------------------------------------------------------------------------------


def test_whatever_needs_more_than_flowers_rounds_is_refused() -> None:
    book = roster(census())
    with pytest.raises(ValueError, match="FedBuff cannot be a Strategy: a Strategy works in rounds"):
        AggregatorStrategy(FedBuff(start(), book))
    with pytest.raises(ValueError, match="FedAvg cannot be a Strategy: a Strategy hears of a round when it is over"):
        AggregatorStrategy(FedAvg(start(), book, cohort=3, goal=2))
    with pytest.raises(ValueError, match="leave out goal and deadline"):
        AggregatorStrategy(FedAvg(start(), book, deadline=1000))
    with pytest.raises(ValueError, match="SCAFFOLD cannot be a Strategy: its clients send more than a changed model"):
        AggregatorStrategy(SCAFFOLD(start(), book))
    with pytest.raises(ValueError, match="fraction_train: whom to ask is the aggregator's affair"):
        AggregatorStrategy(FedAvg(start(), book), fraction_train=0.5)


def test_every_aggregator_is_taken_or_refused() -> None:
    taken = set()
    for name, kind in AGGREGATORS.items():
        if name in ("altmin", "cda", "fetchsgd"):
            continue
        try:
            AggregatorStrategy(kind(start(), roster(census()), **{"fedfix": {"interval": 1000}}.get(name, {})))
        except ValueError as error:
            assert "cannot be a Strategy" in str(error)  # noqa: PT017
        else:
            taken.add(name)
    assert taken == {"fedavg", "fedprox", "fednova", "sfat", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "diloco",
                     "fedau", "fedvarp", "mifa", "fedstale"}  # fmt: skip


@pytest.mark.parametrize(
    ("aggregator", "said"),
    [
        (FedNova(start(), roster()), "FedNova has to know 'steps' of each training: the reply of client 0"),
        (SFAT(start(), roster()), "SFAT has to know 'loss' of each training"),
        (
            FedStale(start(), Roster(Uniform(1), census=census(2))),
            "3 nodes have come, but the aggregator's census is",
        ),
        (FedAvg(torch.zeros(SIZE + 1), roster()), "the model has 5 parameters, the aggregator 6"),
    ],
)
def test_what_does_not_fit_fails_with_a_sentence(aggregator: Aggregator, said: str) -> None:
    with pytest.raises(Exception, match=said):
        started(AggregatorStrategy(aggregator), arrays(), grid_over(mover(), 3), rounds=1)


@pytest.mark.parametrize("odd", [np.zeros(3, np.int64), np.zeros(3, np.float64)])
def test_models_are_of_one_floating_type(odd) -> None:
    with pytest.raises(Exception, match="of one floating type, not"):
        started(averaging(), arrays(b=odd), grid_over(mover(), 3), rounds=1)
