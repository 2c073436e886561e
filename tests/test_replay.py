"""Replaying recorded times: the same totals as the engine, to the microsecond; whatever it waits for, no longer."""

from __future__ import annotations

import numpy as np
import pytest

from fedsim import experiment, scenario
from fedsim.coding.replay import Replay, Totals
from fedsim.trace import Trace

WORKERS, JOBS, BATCH = 6, 25, 24
SLOPE = 0.36
"""Seconds for everything: 2.5 ms for each of 144 examples."""


def recorded(seed: int, rounds: int = 40) -> np.ndarray:
    """Seconds, in whole milliseconds: a few workers are late, some of them again and again."""
    rng = np.random.default_rng(seed)
    slow = rng.random((rounds, WORKERS)) < np.where(np.arange(WORKERS) == 2, 0.4, 0.1)
    return rng.integers(100, 140, (rounds, WORKERS)) / 1000 * np.where(slow, rng.integers(2, 9, slow.shape), 1)


def engine(tmp_path, seconds: np.ndarray, code: dict, **more) -> dict:
    """What a run in virtual time has come to, by column of its metrics."""
    np.savez(tmp_path / "times.npz", times=seconds)
    free = {"down": "unlimited", "up": "unlimited"}
    [(name, arguments)] = code.items()
    [arm] = scenario.read({
        "until": {"versions": JOBS},
        "data": {"digits": {"partition": "iid"}},
        "model": "logistic",
        "fleet": {"clients": WORKERS, "devices": {"constant": {"per_example": "2.5 ms", **free}},
                  "stragglers": {"trace": {"path": str(tmp_path / "times.npz"), "use": "delay"}}},
        "network": {"star": {"latency": "0 s", "server_up": "unlimited", "server_down": "unlimited"}},
        "local": {"steps": 1, "batch": BATCH, "optimizer": {"sgd": {"lr": 0.1}}},
        "evaluate": {"every": "1 h"}, "executor": "null",
        "coding": {name: {"models": 5, **arguments, **more}},
    })  # fmt: skip
    simulation = experiment.assemble(arm).simulation(Trace())
    simulation.run()
    return simulation.progress.rows[-1]


def same(totals: Totals, row: dict, candidate: int = 0) -> None:
    assert totals.seconds[candidate] == pytest.approx(row["time_s"], abs=1e-6)
    assert totals.waited_out[candidate] == row["waited_out"]
    assert totals.straggled[candidate] == row["straggled"]


@pytest.mark.parametrize("wait_out", ["pattern", "all"])
@pytest.mark.parametrize("mu", [0.5, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_equals_the_engine(tmp_path, wait_out, mu, seed) -> None:
    """For codes that cut batches of 24 into whole numbers: 16 + 8, 18 + 6, 8 + 8 + 8, 8 + 8 + 4 + 4 and so on."""
    seconds = recorded(seed)
    replay = Replay(seconds, SLOPE, JOBS, mu, wait_out)
    ways = {"mu": mu, "wait_out": wait_out}
    same(replay.uncoded(), engine(tmp_path, seconds, {"uncoded": {}}, **ways))
    for place, s in enumerate((0, 1, 3)):
        totals = replay.gradient_code(np.array([0, 1, 3]))
        same(totals, engine(tmp_path, seconds, {"gc": {"stragglers": s}}, **ways), place)
    for burst, window, stragglers in ((1, 2, 1), (1, 2, 2), (1, 3, 0), (2, 3, 1), (1, 2, 6), (1, 3, 6), (2, 3, 6)):
        code = {"msgc": {"burst": burst, "window": window, "stragglers": stragglers}}
        totals = replay.multiplexed(burst, window, np.array([stragglers]))
        same(totals, engine(tmp_path, seconds, code, **ways))
    for burst, window, stragglers in ((1, 2, 2), (1, 2, 3), (1, 3, 2), (2, 3, 3), (2, 5, 4), (3, 4, 4)):
        code = {"srsgc": {"burst": burst, "window": window, "stragglers": stragglers}}
        totals = replay.selective_repeat(burst, window, np.array([stragglers]))
        same(totals, engine(tmp_path, seconds, code, **ways))


def test_candidates_do_not_know_of_each_other() -> None:
    replay = Replay(recorded(3), SLOPE, JOBS)
    many = np.arange(WORKERS)
    for run in (
        lambda each: replay.gradient_code(each),
        lambda each: replay.multiplexed(1, 3, each),
        lambda each: replay.selective_repeat(2, 3, each),
    ):
        together = run(many).seconds.tolist()
        assert together == [float(run(many[place : place + 1]).seconds[0]) for place in many]


def test_waiting_for_the_pattern_is_never_slower_than_waiting_for_all() -> None:
    """And no scheme takes longer than it would if it always waited for everybody."""
    for seed in range(5):
        patient, keen = (Replay(recorded(seed), SLOPE, JOBS, wait_out=way) for way in ("all", "pattern"))
        always = Replay(recorded(seed), SLOPE, JOBS, mu=1e6)
        for run in (
            lambda each: each.gradient_code(np.arange(WORKERS)),
            lambda each: each.selective_repeat(1, 2, np.arange(1, WORKERS)),
            lambda each: each.multiplexed(1, 2, np.arange(WORKERS + 1)),
        ):
            assert (run(keen).seconds <= run(always).seconds + 1e-9).all()
            assert (run(patient).seconds <= run(always).seconds + 1e-9).all()
        assert (
            keen.gradient_code(np.arange(WORKERS)).seconds <= patient.gradient_code(np.arange(WORKERS)).seconds
        ).all()


def test_a_run_that_is_longer_than_the_recording_begins_it_again() -> None:
    seconds = recorded(1, rounds=10)
    once, twice = Replay(seconds, 0.0, 10).uncoded(), Replay(seconds, 0.0, 20).uncoded()
    assert once.seconds[0] == pytest.approx(seconds.max(axis=1).sum())
    assert twice.seconds[0] == pytest.approx(2 * once.seconds[0])
