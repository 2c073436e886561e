"""The stability gap: what curves say, what a probe sees inside local training, and replay of old tasks."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
import torch
from worlds import changed

import fedsim
from fedsim import continual
from fedsim.data import SplitDigits
from fedsim.errors import ScenarioError
from fedsim.objectives import Replay, Step
from fedsim.rng import stream
from fedsim.work import LocalTask

TOY = np.array([[0.1, 0.5, 0.9, 0.3, 0.6, 0.85], [0.1, 0.1, 0.1, 0.5, 0.8, 0.9]]).T
LAST = (2, 5)
DIGITS = {
    "seed": 3,
    "until": {"versions": 6},
    "data": {"split_digits": {"trainings": 2}},
    "model": {"mlp": {"hidden": [16]}},
    "fleet": {"clients": 5, "devices": "fedscale"},
    "local": {"steps": 3, "batch": 8, "optimizer": {"sgd": {"lr": 0.1}}, "probe": {"continual": {"examples": 20}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "100 h", "clients": True},
}
REPLAY = {"objective": {"replay": {"memory": 6}}}


def run(local: dict | None = None, **changes):
    return changed(DIGITS, local, **changes)


def tables(local: dict | None = None, **changes) -> list[dict]:
    return run(local, **changes)[1].progress.probed.tables


def random_curves(n: int = 30, tasks: int = 3) -> tuple[np.ndarray, list[int]]:
    return stream(1, "curves").random((n, tasks)), [n // 3 - 1, 2 * n // 3 - 1, n - 1]


# Curves ---------------------------------------------------------------------------------------------------------------


def test_a_toy_by_hand() -> None:
    assert continual.average(TOY) == pytest.approx(0.875)
    assert continual.forgetting(TOY, LAST) == pytest.approx(0.05)
    assert continual.minimum(TOY, LAST) == pytest.approx(0.30)
    assert continual.worst_case(TOY, LAST) == pytest.approx(0.60)
    assert continual.fall(TOY, 3) == pytest.approx(0.30)
    assert continual.rise(TOY, 3) == pytest.approx(0.75)
    assert continual.learning_area(TOY, LAST, beta=2) == pytest.approx((0.5 + 1.4 / 3) / 2)


def test_old_tasks_are_no_better_at_their_worst_than_now() -> None:
    curves, last = random_curves()
    assert continual.minimum(curves, last) <= curves[-1, :-1].mean()


def test_what_does_not_change_neither_falls_nor_rises() -> None:
    curves = np.full((9, 2), 0.7)
    assert continual.fall(curves, 5) == continual.rise(curves, 5) == 0
    assert continual.forgetting(curves, (4, 8)) == 0


def test_who_looks_less_often_sees_no_lower_minimum() -> None:
    curves, last = random_curves()
    coarse, its = curves[2::3], [(end - 2) // 3 for end in last]
    assert continual.minimum(coarse, its) >= continual.minimum(curves, last)


def test_a_wider_window_sees_no_smaller_fall() -> None:
    curves, _ = random_curves()
    for law in (continual.fall, continual.rise):
        found = [law(curves, window) for window in range(1, 40)]
        assert found[0] == 0
        assert found == sorted(found)


def test_the_minimum_begins_after_the_task_has_ended() -> None:
    curves = np.array([[0.0, 0.0], [0.1, 0.0], [0.8, 0.5], [0.9, 0.6]])
    assert continual.minimum(curves, (1, 3)) == 0.8


def test_a_first_task_has_no_old_ones() -> None:
    one = TOY[:3, :1]
    assert isnan(continual.minimum(one, (2,)))
    assert isnan(continual.forgetting(one, (2,)))
    assert continual.worst_case(one, (2,)) == 0.9


# The probe ------------------------------------------------------------------------------------------------------------


def test_it_judges_the_models_on_the_way() -> None:
    """Before the first step the server's; after the last what the client sends; each on the same examples."""
    made, simulation = run(until={"versions": 1})
    probe = made.trainer.probe
    client = 2
    [table] = [table for table in simulation.progress.probed.tables if table["client"] == client]
    assert table["step"].tolist() == [0, 1, 2, 3]
    for steps, place in ((0, 0), (1, 1), (3, 3)):
        task = LocalTask(client, made.params, 0, steps)
        params = made.params + made.trainer([task])[0].delta
        named = made.layout.unflatten(params)
        for task, rows in enumerate(probe.rows):
            x, y = made.dataset.x_test[rows], made.dataset.y_test[rows]
            right = (torch.func.functional_call(made.evaluator.model, named, (x,)).argmax(1) == y).double().mean()
            assert table[f"task_{task}"][place] == pytest.approx(float(right))


def test_its_examples_are_drawn_once_and_are_each_tasks_own() -> None:
    made, _ = run(until={"versions": 1})
    probe = made.trainer.probe
    assert [len(rows) for rows in probe.rows] == [20] * 5
    for task, rows in enumerate(probe.rows):
        assert set(made.dataset.test_tasks[rows]) == {task}
    again, _ = run({"steps": 2}, until={"versions": 1})
    assert all(np.array_equal(one, other) for one, other in zip(probe.rows, again.trainer.probe.rows, strict=True))
    other, _ = run(seed=4, until={"versions": 1})
    assert not np.array_equal(probe.rows[0], other.trainer.probe.rows[0])


def test_without_tasks_each_class_is_one() -> None:
    found = tables(until={"versions": 1}, data="digits", evaluate={"every": "100 h"})
    assert [name for name in found[0] if name.startswith("class_")] == [f"class_{label}" for label in range(10)]


SERVERS = {
    "fedavg": {},
    "over-selection": {"aggregator": {"fedavg": {"cohort": 4, "goal": 2}}},
    "fedbuff": {"aggregator": {"fedbuff": {"concurrency": 4, "goal": 2}}},
    "fedstale": {"aggregator": "fedstale"},
    "peers": {"aggregator": None, "peers": "gossip", "network": "ring", "evaluate": {"every": "100 h"}},
    "edges": {"network": {"tree": {"edges": 2}}, "edges": {"aggregator": "fedavg", "rounds": 2}},
}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("local", [{}, REPLAY])
def test_what_it_sees_is_the_same_under_every_executor(server, local) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = [run(local, executor=kind, **SERVERS[server])[1] for kind in ("inline", "stacked", "null")]
    assert torch.equal(state, torch.get_rng_state())
    one, other, nothing = (simulation.progress.probed for simulation in found)
    assert nothing is None
    assert len(one.tables) == len(other.tables) > 4
    for left, right in zip(one.tables, other.tables, strict=True):
        assert list(left) == list(right)
        assert all(np.array_equal(left[name], right[name]) for name in left)
    assert len({simulation.trace.digest() for simulation in found}) == 1


def test_it_changes_nothing_but_the_time() -> None:
    plain, probed = run({"probe": None}), run()
    assert torch.equal(plain[1].aggregator.params, probed[1].aggregator.params)
    looks = (3 + 1) * 5 * 20 / 3
    assert list(probed[0].work.seen) == [round(seen + looks) for seen in plain[0].work.seen]


def test_fewer_steps_are_fewer_looks() -> None:
    """Epochs of unequal parts, in one stack."""
    made, simulation = run({"steps": None, "epochs": 1}, until={"versions": 1}, evaluate={"every": "100 h"},
                           data={"digits": {"partition": {"dirichlet": {"alpha": 0.3}}}})  # fmt: skip
    found = {table["client"]: len(table["step"]) - 1 for table in simulation.progress.probed.tables}
    assert found == dict(enumerate(made.work.steps))
    assert len(set(found.values())) > 1


def test_it_is_in_the_run_folder(tmp_path) -> None:
    compared = DIGITS | {
        "compare": {"executor": {"inline": {"executor": "inline"}, "stacked": {"executor": "stacked"}}}
    }
    result = fedsim.run(compared, out=tmp_path, picture=False, workers=2)
    one, other = (arm.probes for arm in result.arms)
    assert one is not None
    assert one.equals(other)
    assert list(one)[:5] == ["time_s", "client", "version", "ordinal", "step"]
    assert len(one) == 6 * 5 * 4
    trace = result.arms[0].trace
    assert set(one.time_s) <= set(trace.time[trace.kind == "arrive"] / 1e6)
    assert result.probes is not None
    assert len(result.probes) == 2 * len(one)


# Tasks and replay -----------------------------------------------------------------------------------------------------


def test_five_tasks_come_in_turn_and_the_last_stays() -> None:
    source = SplitDigits(trainings=3)
    dataset = source.load()
    assert dataset.tasks is not None
    parts = source.partition.split(dataset, 10, 1)
    for ordinal in (0, 2, 3, 8, 12, 99):
        held = [parts.held(client, ordinal) for client in range(10)]
        assert set(dataset.tasks[np.concatenate(held)]) == {min(ordinal // 3, 4)}
        assert len(set(np.concatenate(held))) == sum(parts.sizes)
    assert parts.test is not None
    for client in range(10):
        assert set(dataset.y_test[parts.test.indices[client]].tolist()) == {2 * (client % 5), 2 * (client % 5) + 1}


def test_memory_is_of_old_tasks_and_no_larger() -> None:
    made, simulation = run(REPLAY)
    for client in range(5):
        memory = simulation.kept[client].settled().own
        assert list(memory) == ["task 0", "task 1", "task 2"]
        for task, rows in enumerate(memory.values()):
            assert set(made.dataset.tasks[rows]) == {task}
            assert len(set(rows.tolist())) == 6
            assert set(rows.tolist()) <= set(made.trainer.parts.held(client, 2 * task).tolist())


def test_the_present_task_is_not_replayed() -> None:
    tasks = np.array([0, 0, 0, 1, 1, 1])
    replay, memory = Replay(tasks=tasks, memory=2), {}
    draw = torch.Generator().manual_seed(1)
    first = torch.tensor([2, 0, 2])
    assert torch.equal(replay.remembered(first, memory, draw), first)
    assert memory["task 0"].tolist() == [2, 0]
    old = replay.remembered(torch.tensor([4, 3, 5, 3]), memory, draw)
    assert set(old.tolist()) <= {0, 2}
    assert memory["task 1"].tolist() == [4, 3]


def test_a_first_task_is_learnt_as_ever() -> None:
    plain, replayed = run(until={"versions": 2}), run(REPLAY, until={"versions": 2})
    torch.testing.assert_close(plain[1].aggregator.params, replayed[1].aggregator.params, rtol=1e-4, atol=1e-6)
    assert [made.work.seen[0] - plain[0].work.seen[0] for made, _ in (replayed,)] == [3 * 8]


def test_a_step_is_of_both_losses() -> None:
    """With weight 1 memory does not matter; with weight 0 the new batch does not."""
    new = run({"objective": {"replay": {"weight": 1.0}}})[1].aggregator.params
    plain = run()[1].aggregator.params
    torch.testing.assert_close(new, plain, rtol=1e-4, atol=1e-6)
    made, _ = run(REPLAY)
    objective, memory = made.trainer.objective, {"task 0": torch.tensor([0, 1])}
    rows = torch.from_numpy(np.flatnonzero(made.dataset.tasks == 1)[:4])[None]
    x, y = made.trainer.look_up(rows)
    task = LocalTask(0, made.params, 2, 1)
    step = Step(made.trainer.gradients, {}, x, y, None, [task], 0, 3, made.layout, rows, made.trainer.look_up, [memory])
    fresh, old = objective.terms(step)
    assert (fresh.weight, old.weight) == (0.3, 0.7)
    assert torch.equal(fresh.points, step.x)
    assert set(old.y[0].tolist()) <= set(made.dataset.y[:2].tolist())


def test_replay_keeps_what_fine_tuning_loses() -> None:
    local = {"steps": 10, "batch": 20}
    changes = {"until": {"versions": 10}, "model": {"mlp": {"hidden": [64]}}}
    ends = {name: run({**local, **more}, **changes)[1].progress.probed.tables[-1] for name, more in
            {"replay": {"objective": "replay"}, "plain": {}}.items()}  # fmt: skip
    first = {name: table["task_0"][-1] for name, table in ends.items()}
    assert first["replay"] > 0.7 > 0.1 > first["plain"]


@pytest.mark.parametrize(
    ("local", "changes", "sentence"),
    [(REPLAY, {"data": "digits", "evaluate": {"every": "1 h"}}, "replay is for data that come in tasks"),
     ({**REPLAY, "private": {"clip": 1.0, "multiplier": 1.0}}, {}, "the examples that it remembers"),
     ({}, {"data": {"points": {"clients": 5, "dimension": 2, "spread": 1.0}}, "evaluate": {"every": "1 h"}},
      "local.probe: continual is for classes"),
     ({}, {"model": {"mlp": {"hidden": [16], "norm": "batch"}}}, "judges models without BatchNorm"),
     ({"probe": "continal"}, {}, "did you mean continual"),
     ({}, {"fleet": {"clients": 4, "devices": "fedscale"}}, "multiple of 5 clients, not 4"),
     ({"steps": 1}, {"aggregator": None, "coding": "uncoded", "evaluate": {"every": "1 h"}},
      "local.probe: a job is one gradient")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(local, changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        run(local, **changes)
