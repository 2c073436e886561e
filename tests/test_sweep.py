"""Sweeps: a run folder a combination, resumable, in parallel; failures stand in their folders and in the table."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from test_experiment import SMALL, command

import fedsim
from fedsim import scenario, sweeping
from fedsim.accelerator import CPU
from fedsim.axes import override
from fedsim.checkpoints import FOLDER, Checkpoints
from fedsim.conduct import conduct
from fedsim.errors import Interrupted, RunFailed, ScenarioError
from fedsim.experiment import assemble
from fedsim.intervals import mean_and_half
from fedsim.processes import Killed
from fedsim.repeating import check_origin
from fedsim.results import Run
from fedsim.summary import summary
from fedsim.sweeping import Job, sweep


@pytest.fixture(autouse=True)
def here(monkeypatch) -> None:
    """Jobs run in this process, one after another, where a test does not ask for others."""
    monkeypatch.setattr(sweeping, "processes", lambda workers: one_by_one)


def one_by_one(jobs):
    for job in jobs:
        job.run()
        yield job


def swept(tmp_path: Path, *axes: str, **options: Any) -> Run:
    return sweep(SMALL, *map(override, axes), out=tmp_path, **options)


def weights(run: Run) -> str:
    return run.receipt["digests"]["model.safetensors"]


def test_each_combination_is_what_it_is_alone(tmp_path) -> None:
    found = swept(tmp_path / "many", "learning_seed=1,2", "seed=3,4", "local.optimizer.sgd.lr=0.1,0.01")
    assert len(found.arms) == 8
    assert all(run.finished for run in found.arms)
    assert found.coordinates["learning_seed_1-seed_4-lr_0.01"] == {
        "learning_seed": "1", "seed": "4", "local.optimizer.sgd.lr": "0.01"}  # fmt: skip
    for run in found.arms:
        alone = fedsim.run(run.scenario, out=tmp_path / "one", picture=False)
        for part in ("counts", "trace", "digests", "scenario"):
            assert run.receipt[part] == alone.receipt[part]
    assert len({weights(run) for run in found.arms}) == 8


def test_runs_that_share_their_timeline_are_one_job_and_all_processes_work(tmp_path, monkeypatch) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(sweeping, "processes", lambda workers: lambda found: iter(jobs.extend(found) or []))
    swept(tmp_path, "learning_seed=0..4", "seed=3,4", workers=1)
    assert [len(job.paths) for job in jobs] == [5, 5]
    jobs.clear()
    swept(tmp_path, "learning_seed=0..6", workers=3)
    assert [len(job.paths) for job in jobs] == [2, 3, 2]
    jobs.clear()
    swept(tmp_path, "aggregator.fedbuff.goal=2,3", "seed=0..1", workers=1)
    assert [len(job.paths) for job in jobs] == [2, 2]


def test_who_is_left_behind_is_run_all_the_same(tmp_path) -> None:
    found = swept(tmp_path / "many", "aggregator.fedbuff.goal=2,3", "learning_seed=5,6", workers=1)
    for run in found.arms:
        assert run.receipt["trace"] == fedsim.run(run.scenario, out=tmp_path, picture=False).receipt["trace"]


def test_called_again_it_does_what_is_left(tmp_path) -> None:
    first = swept(tmp_path, "seed=0..2")
    stamps = {run.label: (run.path / "receipt.json").stat().st_mtime_ns for run in first.arms}
    shutil.rmtree(first.path / "seed_1")
    (first.path / "seed_2" / "receipt.json").unlink()
    told = []
    again = swept(tmp_path, "seed=0..2", finished=lambda label, done, total: told.append((label, done, total)))
    assert again.path == first.path
    assert told == [("seed_1", 2, 3), ("seed_2", 3, 3)]
    assert all(run.finished for run in again.arms)
    assert (first.path / "seed_0" / "receipt.json").stat().st_mtime_ns == stamps["seed_0"]
    swept(tmp_path, "seed=0..2", fresh=True)
    assert (first.path / "seed_0" / "receipt.json").stat().st_mtime_ns != stamps["seed_0"]


def test_a_run_that_fails_stops_no_other(tmp_path) -> None:
    found = swept(tmp_path, "local.optimizer.sgd.lr=1e30,0.1", "learning_seed=1,2")
    assert [run.finished for run in found.arms] == [False, False, True, True]
    assert all("diverged" in (run.failure or "") for run in found.arms[:2])
    bad, good = summary(found)
    assert (len(bad.finished), len(good.finished)) == (0, 2)
    assert bad.interval("accuracy") is None


def test_what_stops_a_job_stands_in_its_folders(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sweeping, "conduct", lambda *_, **__: 1 / 0)
    found = swept(tmp_path, "seed=0,1")
    assert [run.failure for run in found.arms] == ["division by zero"] * 2


def test_a_run_that_was_stopped_is_no_failure_and_is_taken_up_again(tmp_path, monkeypatch) -> None:
    def stop(experiment, path, resume) -> Run:
        conduct(experiment, path, watch=lambda progress, now: signal.raise_signal(signal.SIGINT))
        raise AssertionError

    monkeypatch.setattr(sweeping, "conduct", stop)
    with pytest.raises(Interrupted):
        swept(tmp_path, "seed=0,1")
    [cut] = tmp_path.glob("scenario/*/seed_0")
    assert list((cut / FOLDER).iterdir())
    assert Run(cut).failure is None
    resumed = []
    monkeypatch.setattr(
        sweeping, "conduct", lambda *found, resume: resumed.append(Checkpoints(found[1] / FOLDER).latest()[0])
        or conduct(*found, resume=resume))  # fmt: skip
    found = swept(tmp_path, "seed=0,1")
    assert [one is not None for one in resumed] == [True, False]
    assert weights(found.arms[0]) == weights(fedsim.run(found.arms[0].scenario, out=tmp_path, picture=False))


@pytest.mark.parametrize(
    ("axis", "said"),
    [("local.stepz=1,2", "did you mean steps"), ("local.optimizer.sgd.lr=0.1,-1", "lr"), ("seed=4", "nothing to sweep"),
     ("network=star,tree,rang", "did you mean rin|there is no network 'rang'"), ("model=logistic,lstm", "model|lstm")],
)  # fmt: skip
def test_bad_axes_are_refused_before_anything_runs(tmp_path, axis, said) -> None:
    with pytest.raises(ScenarioError, match=said):
        swept(tmp_path / "none", axis)
    assert not (tmp_path / "none").exists()


def test_means_and_intervals_are_over_seeds(tmp_path) -> None:
    found = swept(tmp_path, "local.steps=1,3", "seed=0..2")
    lines = summary(found)
    assert [line.at for line in lines] == [{"local.steps": "1"}, {"local.steps": "3"}]
    ends = [float(run.metrics.accuracy.iloc[-1]) for run in found.arms[3:]]
    assert lines[1].interval("accuracy") == mean_and_half(ends)
    assert lines[1].json(["accuracy", "nothing"]) == {
        "at": {"local.steps": "3"}, "runs": 3, "finished": 3,
        "accuracy": {"mean": mean_and_half(ends)[0], "half": mean_and_half(ends)[1]},
    }  # fmt: skip


def test_the_verb(tmp_path, monkeypatch, capsys) -> None:
    (file := tmp_path / "small.yaml").write_text(json.dumps(SMALL))
    out = str(tmp_path / "out")
    words = "sweep", str(file), "local.optimizer.sgd.lr=0.1,1e30", "seed=0..1", "until.versions=2", "--out", out
    assert command(monkeypatch, *words, "--json") == 1
    printed = json.loads(capsys.readouterr().out)
    assert [line["finished"] for line in printed["summary"]] == [2, 0]
    assert list(printed["failed"]) == ["lr_1e+30-seed_0", "lr_1e+30-seed_1"]
    assert command(monkeypatch, *words[:2], "seed=0..1", "--out", out) == 0
    assert "±" in capsys.readouterr().out
    assert command(monkeypatch, *words[:2], "sead=0..1", "--out", out) == 2
    assert "did you mean seed" in capsys.readouterr().err


def test_processes_of_one_thread_each_do_the_same(tmp_path, monkeypatch) -> None:
    one = swept(tmp_path / "here", "seed=0..1", "learning_seed=1,2")
    monkeypatch.undo()
    many = swept(tmp_path / "there", "seed=0..1", "learning_seed=1,2", workers=2)
    assert [weights(run) for run in one.arms] == [weights(run) for run in many.arms]


class Fatal(Job):
    """A job whose process dies."""

    def run(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_said_to_be(monkeypatch) -> None:
    monkeypatch.undo()
    with pytest.raises(RunFailed, match=r"was killed.*call it again"):
        list(sweeping.processes(1)([Fatal([], [], None)]))


def test_all_jobs_compute_on_the_device_that_was_asked_for(tmp_path, monkeypatch) -> None:
    asked, found = [], sweeping.assemble

    def assembled(arm, data, loaded, device=CPU):
        asked.append(device)
        return found(arm, data, loaded)

    monkeypatch.setattr(sweeping, "assemble", assembled)
    monkeypatch.setattr(sweeping, "device_of", lambda name: torch.device(name, 1))
    swept(tmp_path, "seed=0,1", device="cuda")
    assert asked == [CPU, CPU, torch.device("cuda", 1), torch.device("cuda", 1)]


def test_a_device_is_of_this_machine(tmp_path, monkeypatch) -> None:
    with pytest.raises(ScenarioError, match=r"^device: cuda is not there"):
        swept(tmp_path, "seed=0,1", device="cuda")
    monkeypatch.setattr(sweeping, "device_of", torch.device)
    monkeypatch.setattr(sweeping, "need_ray", lambda: None)
    with pytest.raises(ScenarioError, match=r"^device: machines of a cluster compute on their CPUs"):
        swept(tmp_path, "seed=0,1", device="cuda", ray="local")
    assert not list(tmp_path.iterdir())


def test_a_killed_process_of_a_comparison_says_how_to_go_on(tmp_path, monkeypatch) -> None:
    def killed(*_):
        raise Killed("one of its processes was killed; what is finished stays")

    monkeypatch.setattr("fedsim.conduct.side_by_side", killed)
    with pytest.raises(RunFailed, match=r"was killed; what is finished stays; go on with: fedsim resume .*scenario/"):
        fedsim.run(SMALL | {"sweep": {"seed": [0, 1]}}, out=tmp_path, workers=2)


def test_who_stops_a_comparison_lets_nothing_more_begin(tmp_path, monkeypatch) -> None:
    over = []

    def endless(do, jobs, workers):
        try:
            yield from ((job, []) for job in jobs)
        finally:
            over.append(workers)

    def stop(label, done, total) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedsim.conduct.side_by_side", endless)
    with pytest.raises(Interrupted) as why:
        fedsim.run(SMALL | {"sweep": {"seed": [0, 1]}}, out=tmp_path, workers=2, finished=stop)
    assert over == [2], why


def test_a_checkpoint_that_does_not_name_its_data_is_refused(tmp_path) -> None:
    made = assemble(scenario.read(SMALL)[0])
    facts = {"scenario": made.arm.digest, "versions": {}}
    with pytest.raises(ScenarioError, match="these are other examples"):
        check_origin(made, facts)
