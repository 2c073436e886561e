"""Coded rounds in virtual time: who is waited for and how long, what is sent, and that the gradient is the gradient."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from worlds import Recording

import fedsim
from fedsim import experiment, scenario
from fedsim.coding import CODES
from fedsim.coding.code import Chunk
from fedsim.coding.jobdata import JobData
from fedsim.conduct import conduct, foresee
from fedsim.errors import ScenarioError
from fedsim.results import load
from fedsim.trace import ARRIVE, KINDS, LOST, START, TRAIN, UPLOAD, VERSION

DIGITS = {
    "seed": 3,
    "until": {"versions": 24},
    "data": {"digits": {"partition": "iid"}},
    "model": {"mlp": {"hidden": [16]}},
    "fleet": {
        "clients": 6,
        "devices": {"constant": {"per_example": "1 ms", "overhead": "50 ms"}},
        "stragglers": {"gilbert_elliott": {"p_slow": 0.15, "p_recover": 0.7, "slowdown": 5, "sigma": 0.1}},
    },
    "network": {"star": {"latency": "5 ms"}},
    "local": {"steps": 1, "batch": 24, "optimizer": {"sgd": {"lr": 0.5, "momentum": 0.9}}},
    "evaluate": {"every": "1 s"},
}
PARAMS = 64 * 16 + 16 + 16 * 10 + 10
EVERY = {
    "uncoded": {},
    "backup": {},
    "gc": {"stragglers": 2},
    "bernoulli": {"copies": 3, "ignore": 1},
    "srsgc": {"burst": 1, "window": 2, "stragglers": 3},
    "msgc": {"burst": 1, "window": 2, "stragglers": 2},
}
MORE = [*EVERY.items(), ("gc", {"stragglers": 1, "kind": "repetition"}), ("uncoded", {"ignore": 2, "mu": 0.0}),
        ("msgc", {"burst": 2, "window": 3, "stragglers": 2}), ("msgc", {"burst": 1, "window": 2, "stragglers": 6}),
        ("srsgc", {"burst": 2, "window": 3, "stragglers": 3, "wait_out": "all"})]  # fmt: skip


def arm(name: str, arguments: dict, **changes) -> scenario.Arm:
    """With four models, so that every delay is hidden."""
    [only] = scenario.read(DIGITS | changes | {"coding": {name: {"models": 4, **arguments}}})
    return only


def rows(name: str, arguments: dict, **changes) -> tuple[list[tuple[int, ...]], object]:
    """What happens, and the simulation that it happened in."""
    trace = Recording()
    simulation = experiment.assemble(arm(name, arguments, **changes)).simulation(trace)
    simulation.run()
    trace.flush()
    return trace.rows, simulation


def test_every_code_is_tried_here() -> None:
    assert set(EVERY) == set(CODES)


# The same, however it is computed -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "arguments"), MORE)
def test_time_does_not_depend_on_who_computes_and_weights_do_not_either(name, arguments) -> None:
    found = {kind: rows(name, arguments, executor=kind) for kind in ("null", "inline", "stacked")}
    assert found["null"][0] == found["inline"][0] == found["stacked"][0]
    pairs = zip(found["inline"][1].params, found["stacked"][1].params, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_every_exact_code_trains_the_same_models_and_only_the_clock_differs() -> None:
    """Iteration by iteration, on the same batches: the uncoded run's weights within 1e-5."""
    _, plain = rows("uncoded", {})
    for name, arguments in MORE:
        _, coded = rows(name, arguments)
        if coded.code.exact:
            for own, uncoded in zip(coded.params, plain.params, strict=True):
                assert (own - uncoded).norm() <= 1e-5 * uncoded.norm()
        else:
            assert any((own - other).norm() > 1e-3 for own, other in zip(coded.params, plain.params, strict=True))


@pytest.mark.parametrize(("name", "arguments"), MORE)
def test_what_is_decoded_is_the_gradient_of_the_whole_batch(name, arguments) -> None:
    """By autograd on the job's examples, at the model that the job was given out with."""
    made = experiment.assemble(arm(name, arguments))
    simulation = made.simulation(Recording())
    taken, started = [], {}
    step, start = simulation.learner.step, simulation.learner.start

    def watch_start(job: int) -> torch.Tensor:
        return started.setdefault(job, start(job))

    def watch_step(job: int, decoded) -> None:
        total = sum(each.result().delta.double() * weight for each, weight in decoded())
        whole = gradient(made, simulation.data, job, started[job])
        taken.append(float((total - whole).norm() / whole.norm()))
        step(job, decoded)

    simulation.learner.step, simulation.learner.start = watch_step, watch_start
    simulation.run()
    assert len(taken) == 24
    assert max(taken) < 1e-5 if simulation.code.exact else max(taken) > 1e-2


def gradient(made, data: JobData, job: int, params: torch.Tensor) -> torch.Tensor:
    """Of the mean loss over all of a job's examples, float64 (P,)."""
    parts, trainer = made.trainer.parts, made.trainer
    chunks = range(len(data.owners))
    rows = np.concatenate([parts.indices[data.owners[chunk]][data.places(job, chunk)] for chunk in chunks])
    assert len(rows) == data.examples == len(set(rows.tolist()))
    named = {name: view.clone().requires_grad_() for name, view in made.layout.unflatten(params).items()}
    scores = torch.func.functional_call(made.evaluator.model, named, (trainer.x[rows],))
    loss = nn.functional.cross_entropy(scores, trainer.y[rows])
    return made.layout.join(dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))).double()


def test_nobody_trains_what_nobody_reads(tmp_path) -> None:
    """Who is given up does not train, and a message that came twice is computed once at most."""
    only = arm("gc", {"stragglers": 2})
    found = conduct(experiment.assemble(only), tmp_path / "run")
    counts = found.receipt["counts"]
    assert counts["lost"] > 0
    assert counts["trained"] == counts["updates"] == (found.trace.kind == "arrive").sum()
    assert counts["trained"] + counts["lost"] == 24 * 6


def test_a_job_starts_from_its_own_models_last_step() -> None:
    """Job t is given out with what job t - 4 has left, whatever else is under way."""
    simulation = experiment.assemble(arm("msgc", {"burst": 2, "window": 3, "stragglers": 2})).simulation(Recording())
    given, left = {}, {}
    step, start = simulation.learner.step, simulation.learner.start

    def watch_start(job: int) -> torch.Tensor:
        given.setdefault(job, start(job))
        assert given[job] is start(job)
        return given[job]

    def watch_step(job: int, decoded) -> None:
        step(job, decoded)
        left[job] = simulation.learner.params[job % 4]

    simulation.learner.step, simulation.learner.start = watch_step, watch_start
    simulation.run()
    assert all(given[job] is left[job - 4] for job in range(4, 24))
    assert len({id(given[job]) for job in range(4)}) == 4


# Time and traffic, by hand --------------------------------------------------------------------------------------------

HAND = {
    "until": {"versions": 2},
    "model": "logistic",
    "network": {"star": {"latency": "10 ms", "server_up": "unlimited", "server_down": "unlimited"}},
    "local": {"steps": 1, "batch": 10, "optimizer": {"sgd": {"lr": 0.1}}},
}


def fleet(tmp_path, seconds: list[list[float]], **changes) -> dict:
    """Workers whose rounds take so long beside 1 ms an example, on links of 650 kB/s."""
    np.savez(tmp_path / "times.npz", times=np.array(seconds))
    device = {"per_example": "1 ms", "down": "650 kB/s", "up": "650 kB/s"}
    return {"clients": len(seconds[0]), "devices": {"constant": device},
            "stragglers": {"trace": {"path": str(tmp_path / "times.npz"), "use": "delay"}}, **changes}  # fmt: skip


def test_a_round_is_what_it_costs(tmp_path) -> None:
    """A model is 650 numbers, 4 ms down; coded messages are twice as large, 8 ms up; 20 examples take 20 ms.

    With twice 10 ms of latency the fastest is heard after 52 ms + 100 ms, the deadline is at 304 ms, and the third is
    late. In the second round two are late, of whom the code bears one: it waits for the nearer.
    """
    found, simulation = rows("gc", {"stragglers": 1}, **HAND, fleet=fleet(tmp_path, [[0.1, 0.2, 0.9], [0.1, 0.5, 0.9]]))
    first = 10_000 + 4_000 + 20_000 + 8_000 + 10_000
    assert first == 52_000
    times = {(kind, client, version): time for time, kind, client, version, *_ in found}
    assert times[ARRIVE, 0, 0] == first + 100_000
    assert times[ARRIVE, 1, 0] == first + 200_000
    assert times[LOST, 2, 0] == times[VERSION, -1, 1] == 304_000
    assert times[START, 2, 1] == 304_000
    assert times[ARRIVE, 0, 1] == 304_000 + first + 100_000
    assert times[ARRIVE, 1, 1] == times[VERSION, -1, 2] == 304_000 + first + 500_000
    assert [row[4] for row in found if row[1] == TRAIN] == [2_600] * 6
    assert [row[4] for row in found if row[1] == ARRIVE] == [5_200] * 4
    assert simulation.progress.tallies == {"rounds": 2, "waited_out": 1, "straggled": 2, "copies": pytest.approx(1)}


def test_waiting_out_may_mean_waiting_for_all(tmp_path) -> None:
    found, _ = rows("gc", {"stragglers": 1, "wait_out": "all"}, **HAND,
                    fleet=fleet(tmp_path, [[0.1, 0.2, 0.9], [0.1, 0.5, 0.9]]))  # fmt: skip
    assert [row[0] for row in found if row[1] == VERSION] == [304_000, 304_000 + 52_000 + 900_000]


def test_a_worker_downloads_only_models_that_it_lacks(tmp_path) -> None:
    """M-SGC's second slot goes on with the model that came in the first; whoever was given up before it came gets both.

    Plain sums travel in float32, coded ones in float64.
    """
    seconds = [[0.1, 0.1, 0.1]] * 4
    found, _ = rows("msgc", {"burst": 1, "window": 2, "stragglers": 1}, **HAND | {"until": {"versions": 3}},
                    fleet=fleet(tmp_path, seconds))  # fmt: skip
    assert [row[4] for row in found if row[1] == TRAIN] == [2_600] * 9 + [0] * 3
    assert [row[4] for row in found if row[1] == ARRIVE] == [2_600] * 3 + [2_600 + 5_200] * 6 + [5_200] * 3
    slow = fleet(tmp_path, seconds)
    slow["devices"] = {"csv": {"path": str(tmp_path / "devices.csv")}}
    (tmp_path / "devices.csv").write_text("down,up,ms_per_example\n650 kB/s,650 kB/s,1\n650 kB/s,650 kB/s,1\n"
                                          "1 kB/s,650 kB/s,1\n")  # fmt: skip
    found, _ = rows("msgc", {"burst": 1, "window": 2, "stragglers": 1}, **HAND | {"until": {"versions": 3}}, fleet=slow)
    lost = [(row[2], row[4] > 0) for row in found if row[1] == LOST]
    assert lost[0][0] == 2
    assert next(row[4] for row in found if row[1] == TRAIN and row[2] == 2) == 2 * 2_600


def test_copies_race_the_slowest(tmp_path) -> None:
    """At the deadline the first who was done takes over what the third has not sent, and is heard before it."""
    found, simulation = rows("backup", {}, **HAND | {"until": {"versions": 1}},
                             fleet=fleet(tmp_path, [[0.1, 0.2, 2.0]]))  # fmt: skip
    first = 10_000 + 4_000 + 10_000 + 4_000 + 10_000 + 100_000
    times = [(time, client) for time, kind, client, *_ in found if kind == ARRIVE]
    again = 2 * first + (first - 4_000)  # with a model that it has already
    assert times == [(first, 0), (first + 100_000, 1), (again, 0)]
    assert [row[0] for row in found if row[1] == VERSION] == [again]
    assert simulation.progress.tallies["copies"] == pytest.approx(1 / 3, rel=0.02)


def test_whoever_fails_starts_again(tmp_path) -> None:
    """Failures are rows of the trace; nobody is missed who is needed, and the models are the same."""
    changes = {"fleet": {**DIGITS["fleet"], "drop": {"during": 0.2, "upload": 0.1, "recovery": "300 ms"}}}
    for name, arguments in MORE:
        found, simulation = rows(name, arguments, **changes)
        assert simulation.version == 24
        starts, ends = (sum(row[1] in kinds for row in found) for kinds in ((START,), (ARRIVE, LOST)))
        assert 0 <= starts - ends < 6, "more than those who were at work when it ended"
    failed, _ = rows("uncoded", {}, **changes)
    assert sum(row[1] == LOST for row in failed) > 10
    kinds = {KINDS[row[1]] for row in failed}
    assert kinds == {KINDS[kind] for kind in (START, TRAIN, UPLOAD, ARRIVE, LOST, VERSION)}


# How many copies of the data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "copies"),
    [("uncoded", {}, 0), ("gc", {"stragglers": 2}, 2), ("gc", {"stragglers": 2, "kind": "repetition"}, 2),
     ("srsgc", {"burst": 1, "window": 2, "stragglers": 3}, 2),
     ("msgc", {"burst": 1, "window": 2, "stragglers": 2}, 0.5),
     ("msgc", {"burst": 1, "window": 2, "stragglers": 6}, 0)],
)  # fmt: skip
def test_copies_that_leave_their_owners(name, arguments, copies) -> None:
    """s of a gradient code; lambda of the coded part, B / (B + (W - 1) (lambda + 1)), of M-SGC."""
    quiet = {"fleet": {"clients": 6, "devices": "constant"}}
    _, simulation = rows(name, arguments, **quiet)
    assert simulation.progress.tallies["copies"] == pytest.approx(copies, abs=0.01)


def test_the_run_folder_says_so(tmp_path) -> None:
    found = conduct(experiment.assemble(arm("gc", {"stragglers": 2})), tmp_path / "run")
    assert found.receipt["counts"]["copies"] == pytest.approx(2)
    assert found.metrics.copies.iloc[-1] == pytest.approx(2)
    assert found.metrics.waited_out.iloc[-1] == found.receipt["counts"]["waited_out"]
    models = load(tmp_path / "run").models
    assert {name: array.shape[0] for name, array in models.items()} == dict.fromkeys(models, 4)
    for name, array in found.weights.items():
        np.testing.assert_array_equal(array, models[name][0])
    assert found.links.bytes.sum() > 0


def test_foreseeing_is_running() -> None:
    made = experiment.assemble(arm("msgc", EVERY["msgc"]))
    cost = foresee(made)
    simulation = made.simulation(Recording())
    simulation.run()
    assert cost["time_s"] == simulation.progress.rows[-1]["time_s"]
    assert cost["bytes_up"] == simulation.progress.up


def test_a_time_can_end_it() -> None:
    for name, arguments in MORE:
        found, simulation = rows(name, arguments, until={"time": "2 s"})
        assert simulation.progress.rows[-1]["time_s"] == 2
        assert 0 < simulation.version < 24
        assert max(row[0] for row in found) <= 2_000_000


def test_it_learns(tmp_path) -> None:
    found = fedsim.run(DIGITS | {"until": {"versions": 120}, "coding": {"msgc": {**EVERY["msgc"], "models": 2}}},
                       out=tmp_path, picture=False)  # fmt: skip
    assert found.metrics.accuracy.iloc[-1] > 0.8
    again = fedsim.run(DIGITS | {"until": {"versions": 120}, "coding": {"msgc": {**EVERY["msgc"], "models": 2}}},
                       out=tmp_path / "again", picture=False)  # fmt: skip
    assert found.receipt["digests"] == again.receipt["digests"]
    assert found.receipt["trace"] == again.receipt["trace"]


# What does not fit ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code", "sentence"),
    [({}, {"msgc": {"burst": 1, "window": 2, "stragglers": 7}}, "coding.msgc: of 6 workers 7 cannot straggle"),
     ({}, {"msgc": {"burst": 1, "window": 2, "stragglers": 2, "models": 1}}, "a delay of 1 rounds needs models: 2"),
     ({}, {"msgc": {"bursts": 1}}, "did you mean burst"),
     ({}, {"mgsc": {}}, "there is no coding 'mgsc' here; did you mean msgc"),
     ({}, {"gc": {"stragglers": -1}}, "coding.gc.stragglers"),
     ({}, {"gc": {"stragglers": 1, "mu": -1}}, "coding.gc.mu"),
     ({"aggregator": "fedavg"}, "uncoded", "aggregator and coding exclude each other"),
     ({"local": {**DIGITS["local"], "steps": 2}}, "uncoded", "has to say steps: 1"),
     ({"evaluate": {"every": "1 s", "train": True, "clients": True}}, "uncoded", "have no models of their own"),
     ({"fleet": {**DIGITS["fleet"], "availability": {"markov": {"on": "1 h", "off": "1 h"}}}}, "uncoded",
      "fleet.availability: a code needs all its workers"),
     ({"data": {"digits": {"partition": {"resampled": {"alpha": 1, "size": 32}}}}}, "uncoded", "data that stay"),
     ({"network": {"tree": {"edges": 2}}, "edges": {"aggregator": "fedavg"}}, "uncoded", "answer to one master")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(changes, code, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        [experiment.assemble(each) for each in scenario.read(DIGITS | changes | {"coding": code})]


def test_more_workers_than_examples_in_a_batch_and_one_worker_alone() -> None:
    for clients in (1, 2):
        for name, arguments in (("uncoded", {}), ("msgc", {"burst": 1, "window": 2, "stragglers": 1}),
                                ("gc", {"stragglers": clients - 1})):  # fmt: skip
            changes = {"fleet": {**DIGITS["fleet"], "clients": clients}, "local": {**DIGITS["local"], "batch": 1}}
            _, simulation = rows(name, arguments, **changes)
            assert simulation.version == 24


def test_a_crash_names_worker_time_and_cause() -> None:
    made = experiment.assemble(arm("gc", {"stragglers": 2}))
    simulation = made.simulation(Recording())
    simulation.learner.params[1] = torch.full_like(simulation.learner.params[1], float("nan"))
    with pytest.raises(fedsim.errors.TrainingFailed, match=r"client \d.*virtual time .*its loss is nan"):
        simulation.run()


# A job's data ---------------------------------------------------------------------------------------------------------


def test_a_batch_is_the_same_whatever_the_code_and_a_chunk_has_its_share() -> None:
    held, batch, models = [50, 47, 8, 0], 16, 3
    whole = JobData(held, batch, [Chunk(owner, 0, 1) for owner in range(4)], models, seed=1)
    bounds = [0, 0.45, 0.9, 1]
    cut = [Chunk(owner, *pair) for owner in range(4) for pair in pairwise(bounds)]
    parted = JobData(held, batch, cut, models, seed=1)
    assert whole.examples == parted.examples == 16 + 16 + 8
    for job in range(30):
        for owner in range(4):
            places = [parted.places(job, 3 * owner + chunk) for chunk in range(3)]
            assert sorted(np.concatenate(places)) == sorted(whole.places(job, owner))
            assert [len(some) for some in places] == parted.counts(job)[3 * owner : 3 * owner + 3].tolist()
            size = whole.counts(job)[owner]
            assert size == min(batch, held[owner])
            assert all(abs(len(some) - size * (end - start)) < 1 + 1e-9
                       for some, (_, start, end) in zip(places, cut, strict=False))  # fmt: skip


def test_a_chunks_data_are_its_own_and_every_pass_shows_them_all() -> None:
    data = JobData([60], 12, [Chunk(0, 0, 0.5), Chunk(0, 0.5, 1)], models=2, seed=1)
    seen = [[set(data.places(job, chunk).tolist()) for job in range(40)] for chunk in (0, 1)]
    assert not set.union(*seen[0]) & set.union(*seen[1])
    one_pass = [data.places(job, chunk).tolist() for job in range(0, 10, 2) for chunk in (0, 1)]
    assert sorted(place for some in one_pass for place in some) == list(range(60))
    orders = {tuple(data.column(job, 0) for job in range(start, start + 10, 2)) for start in range(0, 80, 10)}
    assert len(orders) > 3


def test_the_command_line_says_what_left(tmp_path, capsys) -> None:
    from typer.testing import CliRunner

    from fedsim.__main__ import app

    (tmp_path / "one.yaml").write_text(json.dumps(DIGITS | {"coding": {"gc": {"stragglers": 2}}}))
    done = CliRunner().invoke(app, ["run", str(tmp_path / "one.yaml"), "--out", str(tmp_path / "runs")])
    assert "one: 2.00 copies of the raw data left their owners" in done.output
