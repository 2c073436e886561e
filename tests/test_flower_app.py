"""Flower apps, unmodified, in virtual time: what they compute is theirs, how long it takes is ours."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("flwr", reason="Flower is not installed")

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.compat.server import ServerAppComponents
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import strategy_utils
from flwr.supercore.task_identity import TaskIdentity
from worlds import Recording, Windows, devices

from fedsim.__main__ import app as commands
from fedsim.errors import RunFailed, ScenarioError, Stalled
from fedsim.fleet import Failures, Fleet
from fedsim.flower import internals
from fedsim.flower.addressed import addressed
from fedsim.flower.keys import App
from fedsim.flower.superlink import SuperLink
from fedsim.flower.supernode import Nap
from fedsim.flower.virtual import run_app, serve
from fedsim.flower.virtual_grid import VirtualGrid
from fedsim.flower.watch import EPOCH, worn
from fedsim.network import Conditions, Outage, Star
from fedsim.progress import Progress, Until
from fedsim.trace import ARRIVE, LOST, START, TRAIN, UPLOAD, VERSION
from fedsim.units import FOREVER, SECOND

APPS = Path(__file__).parent / "flower_apps"
NUMPY, LOOP, TORCH = APPS / "numpy_app", APPS / "loop_app", APPS / "torch_app"
FLEET: dict[str, Any] = {
    "seed": 3,
    "fleet": {"clients": 4, "devices": {"constant": {"per_example": "10 ms", "down": "8 kbit/s", "up": "4 kbit/s"}}},
    "network": {"star": {"latency": "50 ms", "server_up": "unlimited", "server_down": "unlimited"}},
    "app": {"passes": "local-epochs"},
}
CRASHED, RAISED, UNAVAILABLE, EXPIRED = 8, 2, 5, 3


def ran(folder: Path, tmp_path: Path, *config: str, **changes: Any) -> tuple[dict[str, np.ndarray], Any]:
    """What an app has written into its `out`, and its run folder."""
    out = tmp_path / "result.npz"
    run = run_app(folder, FLEET | changes, run_config=[*config, f'out="{out}"'], out=tmp_path / "runs")
    return dict(np.load(out)), run


# Whole apps ---------------------------------------------------------------------------------------------------------


def averages(clients: int, rounds: int, seed: int = 3) -> np.ndarray:
    """What the numpy app makes of its model, by hand: no Flower, no grid, no clock."""
    model, order = np.zeros(4), random.Random()
    with addressed(seed, "server"):
        order.setstate(random.getstate())
    for turn in range(rounds):
        sampled, updates = order.sample(range(clients), clients), []
        for number in sampled:
            local = model
            for _ in range(2):
                local = local + 0.5 * (number - local)
            with addressed(seed, "client", number, 2 * turn):  # evaluations count too
                updates.append((local + np.random.standard_normal(4) * 0.01, 10 * (number + 1)))
        order.sample(range(clients), clients)  # for evaluation
        whole = sum(weight for _, weight in updates)
        total = updates[0][0] * (updates[0][1] / whole)
        for update, weight in updates[1:]:
            total = total + update * (weight / whole)
        model = total
    return model


def test_weights_are_to_the_bit_what_the_app_computes_by_hand_on_whatever_fleet(tmp_path) -> None:
    here, _ = ran(NUMPY, tmp_path)
    assert np.array_equal(here["w"], averages(clients=4, rounds=3))
    phones = {"clients": 4, "devices": "fedscale", "stragglers": {"lognormal": {"sigma": 1.0}}}
    there, run = ran(NUMPY, tmp_path, fleet=phones, network="star")
    assert np.array_equal(here["w"], there["w"])
    assert run.metrics.time_s.iloc[-1] > 10


def test_time_is_messages_over_links_and_examples_times_their_price(tmp_path) -> None:
    _, run = ran(NUMPY, tmp_path, "num-server-rounds=1")
    first = run.trace.groupby("client", sort=True).head(5)
    for client in range(4):
        own = first[first.client == client].set_index("kind")
        down, up = own.nbytes["train"], own.nbytes["arrive"]
        expected = 0.050 + down / 1000, 2 * 10 * (client + 1) * 0.010, 0.050 + up / 500
        moments = own.time[["start", "train", "upload", "arrive"]].to_numpy() / SECOND
        assert np.allclose(np.diff(moments), expected, atol=2e-6, rtol=0)
    rounds = run.metrics.set_index("time_s")
    trained, evaluated = rounds.index[1], rounds.index[2]
    assert trained == pytest.approx(run.trace[run.trace.kind == "arrive"].time.iloc[3] / SECOND)
    assert evaluated > trained
    assert rounds.version.to_list()[-1] == 1
    assert "loss" in rounds
    assert "train_loss" in rounds


def test_an_evaluation_costs_a_third_of_a_training_and_a_query_nothing(grid_of) -> None:
    grid = grid_of(replying(examples=30), [1.0])
    for kind, seconds in (("train", 30), ("evaluate", 10), ("query", 0)):
        began = grid.now
        [reply] = grid.send_and_receive([message(grid, kind=kind)])
        assert reply.has_content()
        assert (grid.now - began) / SECOND == pytest.approx(seconds, abs=1e-5)


def test_messages_are_as_long_as_their_protobuf_and_share_the_servers_line(grid_of) -> None:
    star = Star(latency=0, server_up=1000.0, server_down=inf)
    grid = grid_of(replying(), [1e-6, 1e-6], star=star)
    asked = [message(grid, node, {"a": ArrayRecord({"w": Array(np.zeros(500))})}) for node in (0, 1)]
    grid.send_and_receive(asked)
    sizes = [row[4] for row in grid.link.trace.of(TRAIN)]
    assert sizes == pytest.approx([message_to_proto(each).ByteSize() for each in asked], abs=8)
    assert min(sizes) > 4000
    times = [row[0] / SECOND for row in grid.link.trace.of(TRAIN)]
    assert times == pytest.approx([sum(sizes) / 1000] * 2, abs=0.02)


def test_the_same_seed_gives_the_same_trace_and_another_one_another(tmp_path) -> None:
    phones = {"clients": 6, "devices": "fedscale", "availability": {"markov": {"on": "20 min", "off": "5 min"}}}
    _, one = ran(NUMPY, tmp_path, "fraction-train=0.5", fleet=phones)
    first = one.receipt
    _, two = ran(NUMPY, tmp_path, "fraction-train=0.5", fleet=phones)
    assert two.path == one.path
    assert {**first, "wall_seconds": 0} == {**two.receipt, "wall_seconds": 0}
    _, other = ran(NUMPY, tmp_path, "fraction-train=0.5", fleet=phones, seed=4)
    assert other.receipt["trace"] != first["trace"]
    assert other.path != one.path


def test_a_run_leaves_nothing_behind(tmp_path) -> None:
    def world() -> list[Any]:
        clocks = [
            time.sleep,
            time.time,
            time.monotonic,
            time.perf_counter,
            *(each.sleep for each in internals.SLEEPERS),
        ]
        identity = [vars(TaskIdentity)[name] for name in ("_task_id", "_run_id", "_node_id")]
        drawn = [random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()]
        return [clocks, identity, drawn, list(sys.path), [name for name in sys.modules if "averages" in name]]

    before = world()
    ran(NUMPY, tmp_path)
    assert world() == before


def test_a_torch_app_in_a_package_with_late_imports(tmp_path) -> None:
    found, run = ran(TORCH, tmp_path, "optimizer.lr=0.2", fleet={**FLEET["fleet"], "clients": 2})
    order = random.Random()
    with addressed(3, "server"):
        model = torch.nn.Linear(1, 1)
        assert np.array_equal(found["start.weight"], model.weight.detach().numpy())
        order.setstate(random.getstate())
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for turn in range(2):
        ends = []
        for number in order.sample(range(2), 2):
            model.load_state_dict(weights)
            x = torch.linspace(-1, 1, 8 + number).unsqueeze(1)
            with addressed(3, "client", number, turn):
                torch.nn.Linear(1, 1)  # the app's own is drawn, too
                chosen = torch.randperm(len(x))[: len(x) // 2]
            loss = torch.nn.functional.mse_loss(model(x[chosen]), (number * x + 1)[chosen])
            grads = torch.autograd.grad(loss, list(model.parameters()))
            moved = {name: own - 0.2 * grad for (name, own), grad in zip(weights.items(), grads, strict=True)}
            ends.append((len(x), moved))
        weights = {name: torch.stack([count / 17 * moved[name] for count, moved in ends]).sum(0) for name in weights}
    assert np.allclose(found["end.weight"], weights["weight"].numpy(), atol=1e-6)
    assert run.receipt["counts"]["updates"] == 4
    assert not [name for name in sys.modules if name.partition(".")[0] == "lines"]


def test_an_asynchronous_loop_with_sleeps_runs_in_virtual_time(tmp_path) -> None:
    fast = {"clients": 3, "devices": {"constant": {"per_example": "300 ms", "down": "unlimited", "up": "unlimited"}},
            "stragglers": "none"}  # fmt: skip
    found, run = ran(LOOP, tmp_path, fleet=fast, app={}, network={"star": {"latency": "0 ms"}})
    assert len(found["steps"]) == 4
    assert np.all(np.diff(found["steps"]) >= 3.0), "3 s of work a reply"
    assert found["steps"][-1] == pytest.approx(run.metrics.time_s.iloc[-1], abs=0.2)
    versions = run.trace[run.trace.kind == "version"]
    assert len(versions) == 3, "the last model is sent to nobody"
    assert found["w"] == pytest.approx(found["w"][0])


# Nodes that fail ----------------------------------------------------------------------------------------------------


def replying(
    examples: float | None = 1, do: Callable[[Message, Any], None] = lambda message, context: None
) -> ClientApp:
    """A ClientApp that answers everything with its memory's count of calls."""
    app = ClientApp()

    def answer(message: Message, context: Any) -> Message:
        do(message, context)
        count = context.state.config_records.get("memory", ConfigRecord({"count": 0}))["count"] + 1
        context.state["memory"] = ConfigRecord({"count": count})
        told = {} if examples is None else {"num-examples": examples}
        return Message(RecordDict({"metrics": MetricRecord({**told, "count": count})}), reply_to=message)

    for register in (app.train, app.evaluate, app.query):
        register()(answer)
    return app


@pytest.fixture
def grid_of() -> Iterable[Callable[..., VirtualGrid]]:
    """Makes a grid over a fleet whose clients take so many seconds for an example, on links that cost nothing."""
    stack = []

    def make(client: ClientApp, seconds: list[float], *, star: Star | None = None, links: Conditions | None = None,
             terms: App = App(), **fleet: Any) -> VirtualGrid:  # fmt: skip  # noqa: B008
        own = Fleet(devices(*seconds), seed=1, **fleet)
        graph = (star or Star(latency=0, server_up=inf, server_down=inf)).graph(*[[inf] * len(seconds)] * 2)
        if links:
            links.apply(graph, len(seconds), 1)
        progress = Progress(Until(time=FOREVER), FOREVER, evaluate=lambda told: told)
        grid = VirtualGrid(SuperLink(own, graph, client, {}, terms, Recording(), progress))
        for context in (internals.acting(grid.link.run_id), worn(grid)):
            context.__enter__()
            stack.append(context)
        return grid

    yield make
    for context in reversed(stack):
        context.__exit__(None, None, None)


def message(grid: VirtualGrid, node: int = 0, content: dict | None = None, *, kind: str = "train",
            ttl: float | None = None) -> Message:  # fmt: skip
    """To the n-th node of the fleet."""
    return Message(RecordDict(content or {}), list(grid.link.nodes)[node], kind, ttl=ttl)


def code(reply: Message) -> int:
    """Of an error."""
    assert reply.has_error(), reply
    return reply.error.code


def test_ids_are_64_bits_the_same_under_a_seed_and_nodes_know_their_partition(grid_of) -> None:
    seen = {}
    app = replying(do=lambda message, context: seen.update({context.node_id: dict(context.node_config)}))
    grid = grid_of(app, [1.0] * 3)
    ids = list(grid.get_node_ids())
    assert ids == list(grid_of(app, [1.0] * 3).get_node_ids())
    assert len(set(ids)) == 3
    assert max(ids) > 2**60
    assert max(ids) < 2**64
    grid.send_and_receive([message(grid, number) for number in range(3)])
    assert seen == {name: {"partition-id": number, "num-partitions": 3} for number, name in enumerate(ids)}
    assert [node.node_id for node in grid.get_nodes()] == ids


def test_a_node_does_one_thing_at_a_time_in_order(grid_of) -> None:
    grid = grid_of(replying(examples=3), [1.0])
    replies = grid.send_and_receive([message(grid) for _ in range(3)])
    assert [reply.content["metrics"]["count"] for reply in replies] == [1, 2, 3]
    assert grid.now == 9 * SECOND
    assert [row[0] for row in grid.link.trace.of(START)] == [0, 3 * SECOND, 6 * SECOND]


def test_an_exception_of_the_app_is_a_reply_at_once_and_the_node_goes_on(grid_of) -> None:
    def fail(message: Message, context: Any) -> None:
        if "fail" in message.content:
            raise ValueError("no such thing")

    grid = grid_of(replying(do=fail), [1.0])
    bad, good = grid.send_and_receive([message(grid, content={"fail": ConfigRecord()}), message(grid)])
    assert code(bad) == RAISED
    assert "no such thing" in bad.error.reason
    assert bad.metadata.src_node_id == good.metadata.src_node_id == grid.get_node_ids()[0]
    assert good.content["metrics"]["count"] == 1
    assert grid.now == SECOND + 1
    assert code(grid.send_and_receive([message(grid, kind="train.unknown")])[0]) == RAISED


@pytest.mark.parametrize(("phase", "at"), [("before", 0), ("during", None), ("after", 4), ("upload", 4)])
def test_an_app_that_dies_is_noticed_after_a_minute_and_leaves_no_memory(grid_of, phase, at) -> None:
    failures = Failures(**{phase: 0.5}, recovery=100 * SECOND)
    grid = grid_of(replying(examples=4), [1.0], failures=failures)
    fates = [failures.fate(0, ordinal, 1) for ordinal in range(20)]
    first = next(ordinal for ordinal, fate in enumerate(fates) if fate)
    survived = 0
    for _ in range(first):
        survived = grid.send_and_receive([message(grid)])[0].content["metrics"]["count"]
    began, fate = grid.now, fates[first]
    assert fate is not None
    [reply] = grid.send_and_receive([message(grid)])
    died = (grid.link.trace.of(LOST)[-1][0] - began) / SECOND
    assert code(reply) == CRASHED
    assert died == (pytest.approx(4 * fate.fraction, abs=1e-5) if at is None else at)
    assert grid.now - began == round((died + 60) * SECOND)
    [following] = grid.send_and_receive([message(grid)])
    assert grid.link.trace.of(START)[-1][0] - began == round((died + 100) * SECOND)
    while following.has_error():
        [following] = grid.send_and_receive([message(grid)])
    assert following.content["metrics"]["count"] == survived + 1


def test_who_goes_away_at_work_is_given_up_when_a_superlink_notices(grid_of) -> None:
    grid = grid_of(replying(examples=10), [1.0, 1.0], availability=Windows(c0=[(0, 4), (500, inf)]))
    replies = grid.send_and_receive([message(grid, 0), message(grid, 1), message(grid, 0)])
    assert [reply.has_error() for reply in replies] == [True, False, True]
    assert code(replies[0]) == code(replies[2]) == UNAVAILABLE
    assert replies[0].metadata.src_node_id == internals.SUPERLINK_NODE_ID
    assert replies[0].metadata.reply_to_message_id != replies[2].metadata.reply_to_message_id
    assert grid.now == 64 * SECOND
    assert len(grid.get_node_ids()) == 1
    assert code(grid.send_and_receive([message(grid, 0)])[0]) == UNAVAILABLE
    assert grid.now == 64 * SECOND, "it is known to be gone"
    grid.sleep(500 * SECOND)
    assert len(grid.get_node_ids()) == 2
    assert grid.send_and_receive([message(grid, 0)])[0].content["metrics"]["count"] == 1


def test_what_waits_for_a_node_that_comes_back_in_time_is_done(grid_of) -> None:
    grid = grid_of(replying(examples=10), [1.0], availability=Windows(c0=[(0, 4), (30, inf)]))
    lost, *done = grid.push_messages([message(grid) for _ in range(6)])
    grid.sleep(10 * SECOND)
    assert len(grid.get_node_ids()) == 1, "nobody has noticed yet"
    grid.sleep(31 * SECOND)
    [reply] = grid.pull_messages([lost, *done])
    assert reply.has_content()
    assert reply.metadata.reply_to_message_id == done[0]
    grid.sleep(100 * SECOND)
    last = grid.pull_messages([lost, *done[1:]])
    assert code(last[0]) == UNAVAILABLE
    assert [reply.has_content() for reply in last[1:]] == [True] * 4


def test_a_heartbeat_of_ones_own(grid_of) -> None:
    terms = App(heartbeat=5 * SECOND)
    grid = grid_of(replying(examples=10), [1.0], availability=Windows(c0=[(0, 4)]), terms=terms)
    grid.send_and_receive([message(grid)])
    assert grid.now == 9 * SECOND
    assert grid.get_node_ids() == []


def test_a_link_that_fails_is_a_node_that_cannot_be_reached(grid_of) -> None:
    links = Conditions(outages=(Outage(start=2 * SECOND, end=3 * SECOND, between=(0, "hub")),), on_outage="fail")
    star = Star(latency=0, server_up=inf, server_down=100.0)
    grid = grid_of(replying(), [1.0], star=star, links=links)
    [reply] = grid.send_and_receive([message(grid)])
    assert code(reply) == UNAVAILABLE
    assert grid.now == 62 * SECOND
    assert grid.send_and_receive([message(grid)])[0].content["metrics"]["count"] == 2, "it had computed before"


def test_after_its_time_to_live_a_message_is_unavailable_and_its_reply_refused(grid_of) -> None:
    grid = grid_of(replying(examples=20), [1.0])
    late, waiting = grid.send_and_receive([message(grid, ttl=15), message(grid, ttl=10)])
    assert code(late) == code(waiting) == EXPIRED
    assert grid.now == 15 * SECOND
    [last] = grid.send_and_receive([message(grid)])
    assert last.content["metrics"]["count"] == 2, "one was worked off in vain, the other never begun"
    assert grid.now == 40 * SECOND, "an expired message does not free its node"
    assert len(grid.link.trace.of(LOST)) == 1


def test_a_reply_that_nobody_fetches_in_time_expires_too(grid_of) -> None:
    grid = grid_of(replying(), [1.0])
    [name] = grid.push_messages([message(grid, ttl=5)])
    grid.sleep(6 * SECOND)
    assert code(grid.pull_messages([name])[0]) == EXPIRED


def test_a_timeout_returns_what_there_is_and_the_rest_can_be_pulled_later(grid_of) -> None:
    grid = grid_of(replying(examples=10), [1.0, 3.0])
    asked = [message(grid, 1), message(grid, 0)]
    [reply] = grid.send_and_receive(asked, timeout=20)
    assert grid.now == 20 * SECOND
    assert reply.metadata.src_node_id == grid.get_node_ids()[0]
    slow = asked[0].metadata.message_id
    assert grid.pull_messages([slow]) == []
    assert grid.now == 20 * SECOND + SECOND // 100
    grid.sleep(10 * SECOND)
    [reply] = grid.pull_messages([slow])
    assert reply.has_content()
    assert code(grid.pull_messages([slow])[0]) == EXPIRED, "each reply once"


def test_replies_come_in_the_order_of_their_messages(grid_of) -> None:
    grid = grid_of(replying(), [3.0, 1.0, 2.0])
    ids = [reply.metadata.src_node_id for reply in grid.send_and_receive([message(grid, n) for n in (2, 0, 1)])]
    assert ids == [grid.get_node_ids()[n] for n in (2, 0, 1)]


def test_a_node_that_does_not_exist_has_no_message(grid_of) -> None:
    grid = grid_of(replying(), [1.0])
    assert grid.push_messages([Message(RecordDict(), 7, "train")]) == [""]
    assert code(grid.send_and_receive([Message(RecordDict(), 7, "train")])[0]) == EXPIRED


def test_what_is_done_to_records_after_they_were_pushed_does_not_travel(grid_of) -> None:
    seen = []
    app = replying(do=lambda message, context: seen.append(message.content["c"]["round"]))
    grid = grid_of(app, [1.0])
    config = ConfigRecord({"round": 1})
    names = grid.push_messages([message(grid, content={"c": config})])
    config["round"] = 2
    grid.sleep(5 * SECOND)
    grid.pull_messages(names)
    grid.send_and_receive([message(grid, content={"c": config})])
    assert seen == [1, 2]


def test_models_are_versions_by_their_content(grid_of) -> None:
    grid = grid_of(replying(examples=10), [1.0, 3.0])

    def model(value: float) -> dict:
        return {"arrays": ArrayRecord({"w": Array(np.full(2, value))})}

    slow = grid.push_messages([message(grid, 1, model(0.0))])
    for value in (0.0, 1.0, 2.0, 1.0):
        grid.send_and_receive([message(grid, 0, model(value))])
    assert [row[3] for row in grid.link.trace.of(VERSION)] == [1, 2]
    assert grid.pull_messages(slow)
    arrivals = [(row[2], row[3], row[5]) for row in grid.link.trace.of(ARRIVE)]
    assert arrivals == [(0, 0, 0), (0, 1, 0), (0, 2, 0), (1, 0, 2), (0, 1, 1)] or arrivals == [
        (0, 0, 0), (0, 1, 0), (1, 0, 2), (0, 2, 0), (0, 1, 1)]  # fmt: skip


def test_metrics_are_means_by_examples_as_in_flowers_fedavg(grid_of) -> None:
    app = ClientApp()

    def tell(message: Message, context: Any) -> Message:
        number = context.node_config["partition-id"]
        metrics = {"num-examples": 1 + 2 * number, "loss": 1.0 + 4 * number, "lists": [1.0]}
        return Message(RecordDict({"m": MetricRecord(metrics)}), reply_to=message)

    app.train()(tell)
    app.evaluate()(tell)
    grid = grid_of(app, [1.0, 1.0])
    replies = grid.send_and_receive([message(grid, number) for number in range(2)])
    contents = [reply.content for reply in replies]
    assert strategy_utils.aggregate_metricrecords(contents, "num-examples")["loss"] == 4.0
    grid.send_and_receive([message(grid, number, kind="evaluate") for number in (1, 0)])
    start, trained, evaluated = grid.link.progress.rows
    assert trained["train_loss"] == evaluated["loss"] == 4.0
    assert "loss" not in trained
    assert (start["time_s"], trained["time_s"], evaluated["time_s"]) == (0.0, 3.0, 4.0)
    [table] = grid.link.progress.clients
    assert {name: list(np.atleast_1d(column)) for name, column in table.items()} == {
        "time_s": [4.0], "version": [0], "client": [0, 1], "examples": [1, 3], "loss": [1.0, 5.0]}  # fmt: skip


def test_what_a_client_sleeps_it_takes(grid_of) -> None:
    read = []

    def doze(message: Message, context: Any) -> None:
        read.append(time.time())
        time.sleep(7)
        read.append(time.time())

    grid = grid_of(replying(examples=2, do=doze), [1.0])
    grid.sleep(3 * SECOND)
    grid.send_and_receive([message(grid)])
    assert grid.now == 12 * SECOND
    assert read == [EPOCH + 3, EPOCH + 10]


def test_other_threads_live_in_real_time(grid_of) -> None:
    grid = grid_of(replying(), [1.0])
    grid.sleep(1000 * SECOND)
    seen: list[Any] = []

    def look() -> None:
        seen.extend([time.monotonic(), time.sleep(0)])
        with pytest.raises(RunFailed, match="several threads"):
            grid.get_node_ids()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert time.monotonic() == 1000
    assert seen[0] != 1000
    assert len(seen) == 2
    with pytest.raises(ValueError, match="non-negative"):
        time.sleep(-1)


def test_flowers_sampling_waits_for_nodes_in_virtual_time(grid_of) -> None:
    grid = grid_of(replying(), [1.0, 1.0], availability=Windows(c1=[(100, inf)]))
    sampled, everybody = strategy_utils.sample_nodes(grid, 2, 2)
    assert sorted(sampled) == sorted(everybody) == sorted(grid.get_node_ids())
    assert grid.now == 100 * SECOND


def test_an_app_that_waits_for_ever_reaches_its_limit(grid_of) -> None:
    grid = grid_of(replying(), [1.0], terms=App(limit=1000 * SECOND))
    with pytest.raises(Stalled, match="after virtual time 1000 s the app is not over: 1 of 1 nodes are online"):
        strategy_utils.sample_nodes(grid, 2, 2)
    stubborn = ServerApp()

    @stubborn.main()
    def main(grid: Any, context: Any) -> None:
        try:
            grid.get_node_ids()
        except Exception:
            return

    with pytest.raises(Stalled):
        serve(stubborn, grid)


def test_without_examples_nobody_knows_how_long_it_takes(grid_of) -> None:
    for examples in (None, -1.0, float("nan"), inf):
        grid = grid_of(replying(examples=examples), [1.0])
        with pytest.raises(RunFailed, match="says nothing of 'num-examples'"):
            grid.send_and_receive([message(grid)])
    grid = grid_of(replying(examples=None), [1.0], terms=App(examples="count"))
    grid.send_and_receive([message(grid)])
    assert grid.now == SECOND


# Files and commands -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ap": {}}, "there is no key 'ap' here; did you mean app"),
        ({"app": {"pases": 2}}, "app.pases: there is no key 'pases' here; did you mean passes"),
        ({"app": {"heartbeat": 60}}, "app.heartbeat: expected a number with a unit"),
        ({"app": {"passes": "epochs"}}, "app.passes: the app's run config has no whole number 'epochs'; did you mean "
                                        "local-epochs"),
        ({"app": {"passes": "lr"}}, "has no whole number 'lr'"),
        ({"fleet": {"clients": 2, "devices": "lognormal"}}, "app.flops: is missing: what a training example takes, as "
                                                            "devices lognormal have no measured times"),
        ({"fleet": {**FLEET["fleet"], "participation": {"bernoulli": {"rate": 0.5}}}}, "fleet.participation: a Flower"),
        ({"network": "ring", "fleet": {}}, "fleet.clients: is missing"),
    ],
)  # fmt: skip
def test_wrong_fleet_files_are_refused_before_anything_runs(tmp_path, changes, said) -> None:
    with pytest.raises(ScenarioError) as refused:
        run_app(NUMPY, FLEET | changes, out=tmp_path)
    assert said in str(refused.value)
    assert not list(tmp_path.iterdir())


def app_of(
    tmp_path: Path, server: str, client: str = "from flwr.clientapp import ClientApp\napp = ClientApp()"
) -> Path:
    """An app with these halves."""
    folder = tmp_path / "an_app"
    folder.mkdir(exist_ok=True)
    text = (LOOP / "pyproject.toml").read_text()
    text = text.replace("buffered_app:server", "one_half:app").replace("buffered_app:client", "other_half:app")
    (folder / "pyproject.toml").write_text(text)
    (folder / "one_half.py").write_text(server)
    (folder / "other_half.py").write_text(client)
    return folder


MAIN = "from flwr.serverapp import ServerApp\napp = ServerApp()\n@app.main()\ndef main(grid, context):\n    "


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("import no_such_module_at_all", "cannot load serverapp 'one_half:app': No module named"),
        ("ape = 1", "cannot load serverapp 'one_half:app': Unable to load attribute app"),
        ("app = 1", "serverapp 'one_half:app' is no ServerApp"),
        ("from flwr.serverapp import ServerApp\napp = ServerApp(server_fn=lambda context: None)", "has a server_fn"),
    ],
)
def test_apps_that_cannot_run_are_refused(tmp_path, server, said) -> None:
    with pytest.raises(ScenarioError) as refused:
        run_app(app_of(tmp_path, server), FLEET | {"app": {}}, out=tmp_path / "runs")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "runs").exists()


def test_folders_that_are_no_app_and_unknown_run_config_are_refused(tmp_path) -> None:
    with pytest.raises(ScenarioError, match="Cannot find pyproject"):
        run_app(tmp_path, FLEET, out=tmp_path)
    with pytest.raises(ScenarioError, match="Key 'rounds' is not present"):
        run_app(NUMPY, FLEET, run_config=["rounds=2"], out=tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'")
    with pytest.raises(ScenarioError, match="Missing"):
        run_app(tmp_path, FLEET, out=tmp_path)


def test_a_server_app_that_raises_fails_the_run_and_says_why(tmp_path) -> None:
    server = MAIN + "grid.push_messages([])\n    raise KeyError('arrays')"
    with pytest.raises(RunFailed, match="the ServerApp raised KeyError: 'arrays'"):
        run_app(app_of(tmp_path, server), FLEET | {"app": {}}, out=tmp_path / "runs")
    [failure] = (tmp_path / "runs").rglob("failure.json")
    assert "KeyError" in failure.read_text()
    assert (failure.parent / "trace.parquet").exists()


def test_the_command_line(tmp_path) -> None:
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(json.dumps(FLEET))
    line = ["run", "--flower-app", str(NUMPY), str(fleet), "fleet.clients=3", "-c", "num-server-rounds=1 lr=0.25",
            "--out", str(tmp_path / "runs")]  # fmt: skip
    done = CliRunner().invoke(commands, [*line, "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["runs"]["averages"]["updates"] == 6
    folder = Path(said["path"])
    assert {"scenario.yaml", "metrics.csv", "clients.csv", "links.parquet", "receipt.json"} <= {
        path.name for path in folder.iterdir()}  # fmt: skip
    receipt = json.loads((folder / "receipt.json").read_text())
    assert receipt["app"]["run_config"]["lr"] == 0.25
    again = run_app(NUMPY, folder / "scenario.yaml", run_config=["num-server-rounds=1", "lr=0.25"], out=tmp_path / "b")
    assert again.receipt["trace"] == receipt["trace"]
    assert again.path.name == folder.name
    table = CliRunner().invoke(commands, line)
    assert table.exit_code == 0
    assert "run folder" in table.stdout
    assert "averages" in table.stdout
    with pytest.raises(ScenarioError, match="there is none"):
        CliRunner().invoke(commands, ["run", str(fleet), "-c", "lr=1"], catch_exceptions=False)


def test_without_flower_it_says_what_to_install(tmp_path) -> None:
    line = ["fedsim", "run", "--flower-app", str(NUMPY), str(tmp_path / "fleet.yaml")]
    code = f"import sys; sys.modules['flwr'] = None; sys.argv = {line}; from fedsim.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr == "error: a Flower app needs flwr: pip install 'fedsim-lab[flower]'\n"


def test_the_shipped_app_runs_on_the_shipped_phones(tmp_path) -> None:
    shipped = APPS.parent.parent / "scenarios" / "flower"
    run = run_app(shipped / "digits_app", shipped / "phones.yaml", "fleet.clients=4", out=tmp_path,
                  run_config=["num-server-rounds=2"])  # fmt: skip
    assert run.metrics.accuracy.iloc[-1] > 0.2
    assert run.metrics.time_s.iloc[-1] > 10


def test_the_picture_of_the_network_knows_such_runs(tmp_path) -> None:
    _, run = ran(NUMPY, tmp_path, "num-server-rounds=1")
    assert run.links.bytes.sum() == 2 * (run.metrics.bytes_down.iloc[-1] + run.metrics.bytes_up.iloc[-1])
    done = CliRunner().invoke(commands, ["draw", str(run.path)])
    assert done.exit_code == 0, done.output


# What of flwr is not public -----------------------------------------------------------------------------------------


def test_what_is_used_of_flwr_beyond_its_public_names_is_as_it_was() -> None:
    assert internals.HEARTBEAT == 60
    assert (internals.ErrorCode.MESSAGE_UNAVAILABLE, internals.ErrorCode.NODE_UNAVAILABLE) == (EXPIRED, UNAVAILABLE)
    assert internals.ErrorCode.CLIENT_APP_RAISED_EXCEPTION == RAISED
    assert internals.ErrorCode.CLIENT_APP_CRASHED == CRASHED
    with internals.acting(12):
        made = Message(RecordDict({"b": ConfigRecord({"z": 1, "a": True}), "a": MetricRecord()}), 2**63 + 1, "train")
        assert (made.metadata.run_id, made.metadata.src_node_id) == (12, internals.SUPERLINK_NODE_ID)
    internals.call_it(made, "name")
    assert made.metadata.message_id == "name"
    copy = internals.message_from_proto(internals.message_to_proto(made))
    assert copy.metadata == made.metadata
    assert copy.content == made.content
    assert list(copy.content) == ["b", "a"]
    assert list(copy.content["b"]) == ["z", "a"]
    assert all(callable(module.sleep) for module in internals.SLEEPERS)
    assert internals.of_old(ServerApp(server_fn=lambda context: ServerAppComponents()))
    new = ServerApp()
    new.main()(lambda grid, context: None)
    assert not internals.of_old(new)
    nap = Nap(5)
    with worn(nap):
        time.sleep(2)
    assert nap.slept == 2 * SECOND
    assert UPLOAD != TRAIN
