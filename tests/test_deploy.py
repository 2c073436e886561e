"""Server algorithms on devices, over a grid without processes: whatever happens there, a replay comes to the same."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_every_aggregator import DIGITS, NEEDS, SETTINGS
from test_wire import codec

pytest.importorskip("flwr", reason="the extra `flower` is not installed")

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from grids import FIRST_NODE, Node, deployed, honest

import fedsim
from fedsim import experiment, scenario
from fedsim.aggregators import AGGREGATORS
from fedsim.conduct import conduct
from fedsim.errors import ScenarioError, Stalled
from fedsim.flower.device import Device
from fedsim.flower.fitness import deployable, refuse_undeployable
from fedsim.flower.letters import RAW, packed, unpacked
from fedsim.flower.memory import Diary
from fedsim.flower.replay import difference, replay
from fedsim.flower.words import NONE_YET, Forgotten, Garbled, Order
from fedsim.wire import CODECS
from fedsim.work import ClientState, LocalTask

CLIENTS = 4
BASE = DIGITS | {"until": {"versions": 5}, "fleet": {"clients": CLIENTS, "devices": "fedscale"}}
FEDAVG = BASE | {"aggregator": {"fedavg": {"cohort": "all"}}}
SCAFFOLD = BASE | {"aggregator": {"scaffold": {"cohort": "all"}}}
FEDBUFF = BASE | {"aggregator": {"fedbuff": {"concurrency": "all", "goal": 2}}}


def with_aggregator(name: str) -> dict[str, Any]:
    """At a size for four clients and a few seconds."""
    arguments = dict(NEEDS.get(name, {}))
    arguments |= {"goal": 2} if "goal" in arguments else {}
    arguments |= {"interval": "3 s"} if "interval" in arguments else {}
    return BASE | SETTINGS.get(name, {}) | {"aggregator": {name: arguments}}


def uneven(folder: Path, **others: Any) -> list[Node]:
    """Devices that take other times again and again, so that answers overtake each other."""
    return [
        Node(client, folder / "state", (0.3 + client, 2.2, 0.7 * client + 0.1), **others) for client in range(CLIENTS)
    ]


def simulated(folder: Path, base: dict[str, Any]) -> fedsim.Run:
    [arm] = scenario.read(base)
    return conduct(experiment.assemble(arm), folder / "simulated")


def same_again(run: fedsim.Run, folder: Path) -> None:
    """A replay of a deployment has the same trace, the same measurements and the same model, to the bit."""
    again = replay(run, folder / "replayed")
    assert difference(run, again) == 0
    assert again.receipt["trace"] == run.receipt["trace"]
    assert again.metrics.equals(run.metrics)


def kinds(run: fedsim.Run, client: int, *names: str) -> list[str]:
    """Of a client's rows, those of these kinds, in order."""
    rows = run.trace[(run.trace.client == client) & run.trace.kind.isin(names)]
    return [str(kind) for kind in rows.kind]


# The same as the simulator -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGGREGATORS)
def test_every_aggregator_runs_on_devices_and_a_replay_of_its_trace_comes_to_the_same_model(tmp_path, name) -> None:
    run, _ = deployed(tmp_path, with_aggregator(name), uneven(tmp_path))
    assert run.receipt["counts"]["versions"] == 5
    assert run.receipt["deployment"]["devices"] == CLIENTS
    same_again(run, tmp_path)


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "scaffold", "fedadam", "fedvarp", "mifa"])
def test_rounds_of_all_clients_come_to_what_the_simulator_says_to_the_bit(tmp_path, name) -> None:
    base = BASE | {"aggregator": {name: {"cohort": "all"}}}
    run, _ = deployed(tmp_path, base, uneven(tmp_path))
    assert difference(run, simulated(tmp_path, base)) == 0


LOCAL = {
    "momentum that is kept": {"optimizer": {"sgd": {"lr": 0.1, "momentum": 0.9}}, "optimizer_state": "kept"},
    "adam that is kept": {"optimizer": {"adam": {"lr": 0.01}}, "optimizer_state": "kept"},
    "an objective": {"objective": {"adversarial": {"radius": 0.1, "step": 0.05, "steps": 2, "low": 0, "high": 1}}},
    "a source": {"source": {"eggroll": {"population": 8, "rank": 1, "sigma": 0.1}}},
    "fewer steps as versions grow": {"shrink": {"factor": 0.5, "every": 2}},
    "epochs": {"epochs": 1, "steps": None},
}


@pytest.mark.parametrize("name", LOCAL)
def test_local_training_on_devices_is_the_simulators(tmp_path, name) -> None:
    local = {key: value for key, value in (BASE["local"] | LOCAL[name]).items() if value is not None}
    base = FEDAVG | {"local": local}
    run, _ = deployed(tmp_path, base, uneven(tmp_path))
    assert difference(run, simulated(tmp_path, base)) == 0


@pytest.mark.parametrize("name", CODECS)
def test_every_codecs_message_travels_as_it_is_and_is_as_long_as_it_is_priced(tmp_path, name) -> None:
    base = FEDAVG | {"wire": {"codec": codec(name)}}
    sizes = []

    def weighed(message: Message, app) -> Message:
        reply = app(message)
        if message.metadata.message_type == "train":
            sizes.append(sum(len(part.data) for part in reply.content["message"].values()))
        return reply

    run, _ = deployed(tmp_path, base, uneven(tmp_path, behaviour=weighed))
    assert difference(run, simulated(tmp_path, base)) == 0
    assert sum(sizes) == run.receipt["counts"]["bytes_up"]
    same_again(run, tmp_path)


@pytest.mark.parametrize("noise", ["server", "each"])
def test_a_clip_norm_that_moves_is_told_to_devices_and_their_noise_is_the_simulators(tmp_path, noise) -> None:
    pytest.importorskip("dp_accounting")
    clip = {"adaptive": {"norm": 0.5, "count": 5.0}}
    wire = {"clip": clip, "noise": {"multiplier": 0.1, "by": noise}}
    base = BASE | {"wire": wire, "aggregator": {"fedavg": {"cohort": "all", "weights": "uniform"}}}
    run, _ = deployed(tmp_path, base, uneven(tmp_path))
    assert difference(run, simulated(tmp_path, base)) == 0
    assert "every device know" in run.receipt["deployment"]["noise"]


def test_the_model_travels_once_for_all_who_start_from_it_and_what_is_sent_beside_it_too(tmp_path) -> None:
    _, grid = deployed(tmp_path, SCAFFOLD)
    orders = [message.content for message in grid.pushed if message.metadata.message_type == "train"]
    assert len({id(order["model"]) for order in orders[:CLIENTS]}) == 1
    assert set(orders[0]["model"]) == {"params", "sent"}
    assert orders[0]["model"]["params"].data != orders[CLIENTS]["model"]["params"].data


def test_a_run_leaves_the_global_randomness_alone(tmp_path) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    deployed(tmp_path, FEDAVG)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_silence_is_not_measured_again_and_again(tmp_path) -> None:
    base = FEDAVG | {"evaluate": {"every": "100 ms"}, "until": {"versions": 2}}
    run, _ = deployed(tmp_path, base, [Node(client, tmp_path / "state", (2.0,)) for client in range(CLIENTS)])
    assert run.metrics.time_s.tolist() == pytest.approx([0, 2.0, 2.1, 4.0, 4.0], abs=1e-5)
    same_again(run, tmp_path)


def test_a_run_folder_says_what_a_simulations_says(tmp_path) -> None:
    run, _ = deployed(tmp_path, FEDAVG | {"evaluate": {"every": "2 s"}}, uneven(tmp_path))
    assert run.finished
    assert set(run.metrics.time_s.tolist()[:-1]) <= {0, 2, 4, 6, 8, 10, 12}
    assert run.scenario == simulated(tmp_path, FEDAVG | {"evaluate": {"every": "2 s"}}).scenario
    assert {path.name for path in run.path.iterdir()} == {path.name for path in (tmp_path / "simulated").iterdir()}
    assert run.receipt["counts"]["trained"] == 5 * CLIENTS


@pytest.mark.parametrize("until", [{"time": "7 s"}, {"updates": 6}, {"versions": 1000, "accuracy": 0.5}])
def test_other_limits_end_a_run_and_its_replay(tmp_path, until) -> None:
    run, _ = deployed(tmp_path, FEDBUFF | {"until": until, "evaluate": {"every": "1 s"}}, uneven(tmp_path))
    if "time" in until:
        assert run.metrics.time_s.iloc[-1] == 7
    same_again(run, tmp_path)


# Time ----------------------------------------------------------------------------------------------------------------


def test_a_deadline_ends_a_round_at_its_time_and_who_is_late_is_not_asked_meanwhile(tmp_path) -> None:
    base = BASE | {"aggregator": {"fedavg": {"cohort": "all", "deadline": "3 s"}}}
    nodes = [Node(client, tmp_path / "state", (1.0,) if client else (7.5,)) for client in range(CLIENTS)]
    run, _ = deployed(tmp_path, base, nodes)
    versions = run.trace[run.trace.kind == "version"].time.tolist()
    assert versions[0] == 3_000_000
    assert versions[1] < 4_100_000, "nobody waits for who is at work for the last round"
    assert kinds(run, 0, "start")[0] == "start"
    same_again(run, tmp_path)


def test_steps_by_the_clock_are_taken_at_its_microsecond(tmp_path) -> None:
    run, _ = deployed(tmp_path, with_aggregator("fedfix"), uneven(tmp_path))
    assert run.trace[run.trace.kind == "version"].time.tolist() == [3_000_000 * step for step in range(1, 6)]


def test_training_lies_between_order_and_answer_whatever_the_devices_clock_says(tmp_path) -> None:
    run, _ = deployed(
        tmp_path, FEDAVG, uneven(tmp_path)
    )  # whose clock says that it is long after the paper wall's 1970
    for _, rows in run.trace[run.trace.kind.isin(["start", "train", "upload", "arrive"])].groupby("client"):
        times = rows.time.to_numpy().reshape(-1, 4)
        assert (np.diff(times, axis=1) >= 0).all()


# What devices do -----------------------------------------------------------------------------------------------------


def one_unlike(folder: Path, behaviour=honest, **others: Any) -> list[Node]:
    """All are honest but the first."""
    nodes = [Node(client, folder / "state", (1.0 + client / 10,)) for client in range(CLIENTS)]
    nodes[0] = Node(0, folder / "state", behaviour=behaviour, **others)
    return nodes


def on_training(change):
    """A node whose answers to training are changed; `change` may return None, for silence."""

    def behaviour(message: Message, app) -> Message | None:
        return change(message, app) if message.metadata.message_type == "train" else app(message)

    return behaviour


def with_numbers(value: float):
    def change(message: Message, app) -> Message:
        reply = app(message)
        reply.content["message"]["0"] = packed(torch.full_like(unpacked(reply.content["message"]["0"]), value))
        return reply

    return on_training(change)


def with_content(change):
    def altered(message: Message, app) -> Message:
        reply = app(message)
        change(reply.content)
        return reply

    return on_training(altered)


GARBAGE = {
    "no facts": lambda content: content.pop("facts"),
    "no message": lambda content: content.pop("message"),
    "an empty message": lambda content: content.__setitem__("message", ArrayRecord()),
    "one number too few": lambda content: content["message"].__setitem__("0", packed(torch.zeros(649))),
    "integers": lambda content: content["message"].__setitem__("0", packed(torch.zeros(650, dtype=torch.int64))),
    "too few bytes": lambda content: content["message"].__setitem__("0", Array("float32", (650,), RAW, b"\0" * 2599)),
    "an unknown type": lambda content: content["message"].__setitem__("0", Array("object", (1,), RAW, b"\0" * 8)),
    "a negative shape": lambda content: content["message"].__setitem__("0", Array("float32", (-1, -1), RAW, b"\0" * 4)),
    "an array of numpy's": lambda content: content["message"].__setitem__("0", Array(np.zeros(650, np.float32))),
    "a loss that is no number": lambda content: content["facts"].__setitem__("loss", float("nan")),
    "a loss in words": lambda content: content["facts"].__setitem__("loss", "low"),
    "within what?": lambda content: content["facts"].__setitem__("within", "yes"),
    "something else": lambda content: (content.clear(), content.__setitem__("x", ConfigRecord({"y": 1}))),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_refused_and_the_others_go_on(tmp_path, name) -> None:
    run, _ = deployed(tmp_path, FEDAVG, one_unlike(tmp_path, with_content(GARBAGE[name])))
    assert kinds(run, 0, "arrive", "misshapen") == ["arrive", "misshapen"] * 5
    same_again(run, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("base", [FEDAVG, FEDBUFF, SCAFFOLD], ids=["fedavg", "fedbuff", "scaffold"])
def test_numbers_that_are_not_finite_are_refused(tmp_path, value, base) -> None:
    run, _ = deployed(tmp_path, base, one_unlike(tmp_path, with_numbers(value)))
    assert "infinite" in kinds(run, 0, "infinite")
    assert np.isfinite(run.metrics.loss).all()
    same_again(run, tmp_path)


def test_what_goes_up_beside_a_change_is_looked_at_too(tmp_path) -> None:
    def without_extra(content: RecordDict) -> None:
        content.pop("extra")

    run, _ = deployed(tmp_path, SCAFFOLD, one_unlike(tmp_path, with_content(without_extra)))
    assert set(kinds(run, 0, "misshapen", "infinite")) == {"misshapen"}


def test_a_node_that_is_away_for_a_moment_is_asked_again_and_what_it_was_at_is_nobodys(tmp_path) -> None:
    nodes = one_unlike(tmp_path, seconds=(4.0, 0.5))
    away = nodes[0]
    away.here = lambda now: not 1.0 <= now < 2.0
    run, _ = deployed(tmp_path, FEDAVG | {"until": {"versions": 8}}, nodes)
    story = kinds(run, 0, "join", "start", "leave", "lost", "arrive")
    assert story[:6] == ["join", "start", "leave", "lost", "join", "start"]
    assert "unasked" in kinds(run, 0, "unasked")
    assert story.count("leave") == 1
    same_again(run, tmp_path)


def test_a_device_that_raises_has_failed_and_is_asked_again_after_a_while(tmp_path) -> None:
    calls = []

    def first_raises(message: Message, app) -> Message:
        calls.append(message)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return app(message)

    base = FEDBUFF | {"until": {"time": "10 s"}, "fleet": BASE["fleet"] | {"drop": {"recovery": "4 s"}}}
    run, _ = deployed(tmp_path, base, one_unlike(tmp_path, on_training(first_raises)))
    assert kinds(run, 0, "start", "lost", "arrive")[:4] == ["start", "lost", "start", "arrive"]
    starts = run.trace[(run.trace.client == 0) & (run.trace.kind == "start")].time.tolist()
    assert starts[1] - starts[0] == pytest.approx(5_000_000, abs=100_000)
    assert run.receipt["counts"]["lost"] == 1
    same_again(run, tmp_path)


@pytest.mark.parametrize("base", [FEDAVG, FEDBUFF], ids=["fedavg", "fedbuff"])
def test_a_silent_device_counts_as_gone_and_the_others_go_on(tmp_path, base) -> None:
    run, grid = deployed(
        tmp_path, base, one_unlike(tmp_path, on_training(lambda message, app: None)), **{"answer-limit": 5}
    )
    gone = run.trace[(run.trace.client == 0) & (run.trace.kind == "leave")].time.tolist()
    assert gone == ([] if base is FEDBUFF else [pytest.approx(5_000_000, abs=20_000)])
    asked = [message for message in grid.pushed if message.metadata.dst_node_id == FIRST_NODE]
    assert len(asked) == 2, "its introduction and one training: it is still at that"
    same_again(run, tmp_path)


def test_a_slow_device_that_counts_as_gone_comes_back_with_its_answer_which_nobody_has_asked_for(tmp_path) -> None:
    base = FEDAVG | {"until": {"versions": 12}}
    nodes = one_unlike(tmp_path, seconds=(7.0, 1.0))
    run, _ = deployed(tmp_path, base, nodes, **{"answer-limit": 5})
    story = kinds(run, 0, "join", "start", "leave", "lost", "unasked", "arrive")
    assert story[:8] == ["join", "start", "leave", "lost", "unasked", "join", "start", "arrive"]
    same_again(run, tmp_path)


def test_a_node_that_goes_takes_its_work_with_it(tmp_path) -> None:
    nodes = one_unlike(tmp_path, seconds=(1.0, 60.0), goes=3.0)
    run, _ = deployed(tmp_path, FEDAVG, nodes)
    assert kinds(run, 0, "start", "arrive", "leave", "lost") == ["start", "arrive", "start", "leave", "lost"]
    assert run.receipt["counts"]["versions"] == 5
    same_again(run, tmp_path)


def test_a_late_error_of_who_was_away_disturbs_nobody_at_work(tmp_path) -> None:
    calls = []

    def first_raises(message: Message, app) -> Message:
        calls.append(message)
        if len(calls) == 1:
            raise RuntimeError("cut off")
        return app(message)

    nodes = one_unlike(tmp_path, on_training(first_raises), seconds=(4.0, 6.0, 0.5))
    nodes[0].here = lambda now: not 1.0 <= now < 2.0
    run, grid = deployed(tmp_path, FEDAVG, nodes)
    assert kinds(run, 0, "join", "leave", "lost") == ["join", "leave", "lost", "join"]
    asked = [m.metadata.message_type for m in grid.pushed if m.metadata.dst_node_id == FIRST_NODE]
    assert asked.count("query") == 3
    same_again(run, tmp_path)


def test_a_newcomer_in_the_middle_is_asked_from_then_on(tmp_path) -> None:
    nodes = one_unlike(tmp_path, comes=2.5, seconds=(0.5,))
    run, _ = deployed(tmp_path, FEDAVG, nodes, devices=3)
    joins = run.trace[run.trace.kind == "join"]
    assert joins.time.tolist()[:3] == [0, 0, 0]
    assert joins[joins.client == 0].time.item() > 2_400_000
    assert "arrive" in kinds(run, 0, "arrive")
    same_again(run, tmp_path)


def test_another_node_of_the_same_client_takes_its_place(tmp_path) -> None:
    nodes = [*one_unlike(tmp_path, seconds=(60.0,)), Node(0, tmp_path / "state", (0.5,), comes=2.0)]
    run, grid = deployed(tmp_path, FEDAVG, nodes)
    assert kinds(run, 0, "join", "leave", "lost")[:4] == ["join", "leave", "lost", "join"]
    trained = [m.metadata.dst_node_id - FIRST_NODE for m in grid.pushed if m.metadata.message_type == "train"]
    assert trained.count(0) == 1
    assert trained.count(4) >= 3
    same_again(run, tmp_path)


def introduced_as(**facts: Any):
    def behaviour(message: Message, app) -> Message:
        reply = app(message)
        if message.metadata.message_type == "query":
            reply.content["facts"] = ConfigRecord({**reply.content["facts"], **facts})
        return reply

    return behaviour


@pytest.mark.parametrize("facts", [{"scenario": "another"}, {"client": 99}, {"client": -1}, {"client": "x"}])
def test_who_is_of_another_scenario_is_not_asked(tmp_path, facts) -> None:
    nodes = one_unlike(tmp_path, introduced_as(**facts))
    run, grid = deployed(tmp_path, FEDAVG, nodes, devices=3)
    assert set(run.trace[run.trace.kind == "join"].client) == {1, 2, 3}
    assert [m.metadata.message_type for m in grid.pushed if m.metadata.dst_node_id == FIRST_NODE] == ["query"]


# What they keep ------------------------------------------------------------------------------------------------------

STATEFUL = {
    "scaffold": SCAFFOLD,
    "momentum": FEDAVG | {"local": BASE["local"] | LOCAL["momentum that is kept"]},
    "error feedback": FEDAVG | {"wire": {"codec": {"top_k": {"ratio": 0.1}}}},
}


@pytest.mark.parametrize("name", STATEFUL)
def test_a_reply_that_is_lost_after_the_device_has_written_does_no_harm(tmp_path, name) -> None:
    calls = []

    def second_is_lost(message: Message, app) -> Message | None:
        calls.append(message)
        reply = app(message)  # which has written
        if len(calls) == 2:
            raise RuntimeError("on its way")
        return reply

    base = STATEFUL[name] | {"fleet": BASE["fleet"] | {"drop": {"recovery": "100 ms"}}, "until": {"versions": 6}}
    run, _ = deployed(tmp_path, base, one_unlike(tmp_path, on_training(second_is_lost)))
    assert kinds(run, 0, "lost") == ["lost"]
    assert len(calls) > 3
    same_again(run, tmp_path)


def test_a_device_without_its_memory_says_so_and_is_asked_no_more(tmp_path) -> None:
    calls = []

    def burns_down(message: Message, app) -> Message:
        calls.append(message)
        if len(calls) == 3:
            for path in (tmp_path / "state").glob("client-0-*"):
                path.unlink()
        return app(message)

    run, _ = deployed(tmp_path, SCAFFOLD, one_unlike(tmp_path, on_training(burns_down)))
    assert kinds(run, 0, "arrive", "leave", "lost") == ["arrive", "arrive", "leave", "lost"]
    assert len(calls) == 3
    same_again(run, tmp_path)


def test_who_keeps_nothing_writes_nothing(tmp_path) -> None:
    deployed(tmp_path, FEDAVG)
    assert not (tmp_path / "state").exists()


def test_a_diary_has_the_last_that_was_heard_and_one_more_and_is_never_half(tmp_path) -> None:
    diary = Diary(tmp_path / "deep" / "client.safetensors")
    assert diary.recall(NONE_YET).drift is None
    states = [
        ClientState(drift=torch.full((3,), float(n)), optimizer={"steps": 2.0, "m": torch.ones(3)}) for n in range(4)
    ]
    diary.write(0, states[0])
    Diary(diary.path).recall(0)
    for ordinal in (1, 2, 3):  # 1 is heard of, 2 is not
        fresh = Diary(diary.path)
        found = fresh.recall({1: 0, 2: 1, 3: 1}[ordinal])
        assert torch.equal(found.drift, states[{1: 0, 2: 1, 3: 1}[ordinal]].drift)
        fresh.write(ordinal, states[ordinal])
    with pytest.raises(Forgotten, match="no entry of training 2"):
        Diary(diary.path).recall(2)
    assert [path.name for path in diary.path.parent.iterdir()] == ["client.safetensors"]
    diary.path.write_bytes(diary.path.read_bytes()[:-7])
    with pytest.raises(Forgotten, match="damaged"):
        Diary(diary.path).recall(3)
    with pytest.raises(Forgotten):
        Diary(tmp_path / "none").recall(0)


# What cannot go on ---------------------------------------------------------------------------------------------------


def test_a_server_does_not_wait_for_ever_for_devices_that_do_not_come(tmp_path) -> None:
    with pytest.raises(Stalled, match=r"3 of 4 devices are there.*another"):
        deployed(tmp_path, FEDAVG, one_unlike(tmp_path, introduced_as(scenario="another")))
    assert "3 of 4" in (tmp_path / "run" / "failure.json").read_text()


def test_a_server_does_not_wait_for_ever_for_devices_that_have_all_gone(tmp_path) -> None:
    nodes = [Node(client, tmp_path / "state", goes=2.5) for client in range(CLIENTS)]
    with pytest.raises(Stalled, match=r"nobody is at work, and 0 devices are there: client .: it is offline"):
        deployed(tmp_path, FEDAVG, nodes)


def test_a_server_does_not_wait_for_ever_for_devices_that_are_all_silent(tmp_path) -> None:
    silent = on_training(lambda message, app: None)
    nodes = [Node(client, tmp_path / "state", behaviour=silent) for client in range(CLIENTS)]
    with pytest.raises(Stalled, match=r"nobody is at work, and 0 devices are there: client .: no answer within 5 s"):
        deployed(tmp_path, FEDAVG, nodes, **{"answer-limit": 5})


def test_a_server_does_not_wait_for_ever_for_more_devices_than_there_are(tmp_path) -> None:
    base = BASE | {"aggregator": {"fedavg": {"cohort": 4, "minimum": 4}}}
    with pytest.raises(Stalled, match="nobody is at work, and 3 devices are there"):
        deployed(tmp_path, base, one_unlike(tmp_path, goes=2.5))


def test_a_server_that_steps_by_the_clock_may_well_wait_for_it(tmp_path) -> None:
    base = BASE | {"aggregator": {"fedfix": {"interval": "30 min"}}, "until": {"versions": 2}}
    run, _ = deployed(tmp_path, base)
    assert run.receipt["counts"]["versions"] == 2


def test_a_run_of_which_nothing_comes_ends_and_says_why(tmp_path) -> None:
    def broken(message: Message, app) -> Message:
        raise RuntimeError("no such kernel")

    nodes = [Node(client, tmp_path / "state", behaviour=on_training(broken)) for client in range(CLIENTS)]
    base = FEDAVG | {"fleet": BASE["fleet"] | {"drop": {"recovery": "1 s"}}}
    with pytest.raises(Stalled, match=r"lost or refused: client \d: .*no such kernel"):
        deployed(tmp_path, base, nodes)
    nodes = [Node(client, tmp_path / "state", behaviour=with_numbers(float("nan"))) for client in range(CLIENTS)]
    with pytest.raises(Stalled, match="lost or refused"):
        deployed(tmp_path / "nan", FEDAVG, nodes)


def test_a_folder_that_is_no_run_folder_is_not_replaced(tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ScenarioError, match="no run folder"):
        deployed(tmp_path, FEDAVG, out=str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").exists()


REFUSED = {
    "peers": (
        {"aggregator": None, "peers": "dpsgd", "network": {"ring": {"capacity": "1 Mbit/s"}}},
        "devices talk to a server",
    ),
    "coding": ({"aggregator": None, "coding": {"uncoded": {}}, "local": BASE["local"] | {"steps": 1}}, "chunks"),
    "edges": ({"edges": {"aggregator": {"fedavg": {"cohort": "all"}}}, "network": {"tree": {"edges": 2}}}, "no edges"),
    "adversaries": ({"adversaries": {"share": 0.3, "lie": "sign_flip"}}, "attack by themselves"),
    "wire.secure": (
        {"wire": {"secure": {"bound": 1.0}}, "aggregator": {"fedavg": {"weights": "uniform"}}},
        "does not travel",
    ),
    "local.probe": ({"local": BASE["local"] | {"probe": "continual"}}, "stay on the devices"),
    "local.personal": ({"local": BASE["local"] | {"personal": ["1.bias"]}}, "stay on their devices"),
    "executor": ({"executor": "null"}, "devices train"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_devices_cannot_carry_out_is_refused_in_one_line(name) -> None:
    changes, why = REFUSED[name]
    base = {key: value for key, value in (FEDAVG | changes).items() if value is not None}
    [arm] = scenario.read(base)
    with pytest.raises(ScenarioError, match=rf"scenario:1: {name}: .*{why}") as refused:
        refuse_undeployable(experiment.assemble(arm))
    assert "\n" not in str(refused.value)


def test_a_comparison_is_no_deployment(tmp_path) -> None:
    (tmp_path / "two.yaml").write_text((Path(__file__).parent.parent / "scenarios" / "quickstart.yaml").read_text())
    with pytest.raises(ScenarioError, match="one run, and this is 2"):
        deployable(tmp_path / "two.yaml")


def test_a_simulations_run_folder_is_no_deployments(tmp_path) -> None:
    with pytest.raises(ScenarioError, match="no deployment's run folder"):
        replay(simulated(tmp_path, FEDAVG), tmp_path / "replayed")


# Letters -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_tensors_travel_to_the_bit(dtype, shape) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(1)).mul(9).to(dtype)
    back = unpacked(packed(tensor))
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_not_a_number_and_minus_zero_travel_too() -> None:
    tensor = torch.tensor([float("nan"), -0.0, float("inf")])
    assert unpacked(packed(tensor)).view(torch.int32).tolist() == tensor.view(torch.int32).tolist()


def test_what_is_read_may_be_written_to_and_is_nobody_elses() -> None:
    letter = packed(torch.zeros(3))
    unpacked(letter).add_(1)
    assert unpacked(letter).tolist() == [0, 0, 0]


@pytest.mark.parametrize("array", [Array("float32", (2,), RAW, b"1234567"), Array("complex64", (1,), RAW, b"12345678")])
def test_other_bytes_are_garbled(array) -> None:
    with pytest.raises(Garbled):
        unpacked(array)


def test_who_is_throttled_takes_as_long_as_the_scenarios_device(tmp_path, monkeypatch) -> None:
    slept = []
    monkeypatch.setattr("fedsim.flower.device.sleep", slept.append)
    fleet = {"clients": CLIENTS, "devices": {"linear": {"slowest": "50 s", "fastest": "20 s"}}}
    (path := tmp_path / "x.yaml").write_text(yaml.safe_dump(FEDAVG | {"fleet": fleet}))
    found = deployable(path)
    task = LocalTask(1, found.params, ordinal=0, steps=2)
    for throttled in (False, True):
        Device(found, 1, tmp_path / "diary", throttled).answer(Order(task, after=None, bound=None))
    [pause] = slept
    assert 35 < pause < 40  # the second of four takes 40 s, of which some have passed
