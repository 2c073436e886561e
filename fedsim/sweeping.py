"""A sweep: many runs of one scenario, side by side. What is finished stays, and a run that fails stops no other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsim import scenario
from fedsim.accelerator import CPU, device_of
from fedsim.cluster import connect, need_ray
from fedsim.conduct import Finished, conduct
from fedsim.data import Dataset
from fedsim.errors import Interrupted, RunFailed, ScenarioError
from fedsim.executors.machines import RETRIES
from fedsim.experiment import assemble
from fedsim.folder import COMPARISON, RunFolder
from fedsim.processes import Killed, side_by_side
from fedsim.results import Run, load
from fedsim.scenario import Arm
from fedsim.timeline import timeline
from fedsim.together import conduct_together

ABREAST = 32
"""Not more runs than this share a timeline, so that their models and pending results fit into memory."""


@dataclass(frozen=True)
class Job:
    """Runs that one process does in one go: one, or several that share their timeline."""

    scenarios: Sequence[Mapping[str, Any]]
    paths: Sequence[Path]
    data: Path | None
    device: torch.device = CPU

    def run(self) -> None:
        """Conduct them; whatever goes wrong stands in the folders of those whom it has stopped."""
        for path in self.paths:
            (path / "failure.json").unlink(missing_ok=True)
        try:
            loaded: dict[str, Dataset] = {}
            arms = [arm for one in self.scenarios for arm in scenario.read(one)]
            experiments = [assemble(arm, self.data, loaded, self.device) for arm in arms]
            left = list(range(len(experiments)))
            while len(left) > 1:
                apart = conduct_together([experiments[place] for place in left], [self.paths[place] for place in left])
                left = [left[place] for place in apart]
            for place in left:
                conduct(experiments[place], self.paths[place], resume=lambda line: None)
        except Interrupted:
            raise
        except Exception as error:
            self.stopped(error)

    def stopped(self, error: Exception) -> None:
        """Say so where nothing is said yet."""
        for one, path in zip(self.scenarios, self.paths, strict=True):
            if not (Run(path).finished or Run(path).error):
                RunFolder(path, one).failure(error)


Pool = Callable[[Sequence[Job]], Iterator[Job]]
"""Does jobs somewhere, and names each when it is done."""


def sweep(
    source: str | Path | Mapping[str, Any],
    *overrides: str,
    data: Path | str | None = None,
    out: Path | str = "runs",
    workers: int | None = None,
    fresh: bool = False,
    ray: str | None = None,
    device: str = "cpu",
    finished: Finished = lambda label, done, total: None,
) -> Run:
    """Run all that a scenario compares and sweeps into one folder, several at a time; failed runs say so in theirs.

    Called again, it does what has not come to its end. Runs that share their timeline pass time once, and begin anew if
    they were cut off; others go on from their last checkpoint.

    Args:
        source: a scenario file, or the same as a mapping.
        overrides: changes such as `local.steps=5`, and axes such as `sweep.seed=[0..9]`.
        data: where to look for data first.
        out: the folder that run folders are put into, as `run` does for a comparison.
        workers: processes of one thread each; None: one for each core.
        fresh: begin anew, even what is finished.
        ray: do it on the Ray cluster of this address, all of whose machines see `out` and the data, or `local`.
        device: where numbers are computed, of this machine; all processes share it.
        finished: told a run's label, and how many of how many are done.

    Raises:
        ScenarioError: before anything has run, if one of the scenarios is at fault.
        ExtraMissing: without Ray, if it is asked for.
        RunFailed: if a process was killed.
    """
    arms = scenario.read(source, overrides)
    if arms[0].label == scenario.SINGLE:
        raise ScenarioError("there is nothing to sweep: expected several values of a key, such as seed=0..9")
    place, workers = device_of(device), workers or os.cpu_count() or 1
    pool = processes(workers) if ray is None else cluster(ray, workers, place)
    data = None if data is None else Path(data).resolve()
    names = _timelines(arms, data)
    stem = "scenario" if isinstance(source, Mapping) else Path(source).stem
    path = Path(out).resolve() / stem / scenario.digest([arm.resolved for arm in arms])
    if fresh or not (path / COMPARISON).exists():
        RunFolder(path, scenario.folded(arms)).comparison({arm.label: arm.coordinates for arm in arms})
    todo = [arm for arm in arms if Run(path / arm.label).receipt.get("scenario") != arm.digest]
    done = len(arms) - len(todo)
    for job in pool(_jobs(todo, names, path, data, workers, place)):
        for folder in job.paths:
            done += 1
            finished(folder.name, done, len(arms))
    return load(path)


def _timelines(arms: Sequence[Arm], data: Path | None) -> dict[str, str]:
    """What each has to share with others to run abreast, by label. ScenarioError where something does not fit."""
    loaded: dict[str, Dataset] = {}
    return {arm.label: timeline(assemble(arm, data, loaded)) or arm.label for arm in arms}


def _jobs(
    arms: Sequence[Arm], names: Mapping[str, str], path: Path, data: Path | None, workers: int, device: torch.device
) -> list[Job]:
    """Those who share a timeline in one job, or in as many as keep all processes at work."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(names[arm.label], []).append(arm)
    most = min(ABREAST, -(-len(arms) // workers))
    return [
        Job([arm.resolved for arm in part], [path / arm.label for arm in part], data, device)
        for group in groups.values() for part in _parts(group, most)
    ]  # fmt: skip


def _parts(group: Sequence[Arm], most: int) -> Iterator[Sequence[Arm]]:
    """As few as there can be with so many in each at most, of nearly equal size."""
    ends = np.linspace(0, len(group), -(-len(group) // most) + 1).round().astype(int).tolist()
    return (group[start:end] for start, end in pairwise(ends))


def processes(workers: int) -> Pool:
    """Processes of this machine, one thread each."""

    def work(jobs: Sequence[Job]) -> Iterator[Job]:
        try:
            for job, _ in side_by_side(methodcaller("run"), jobs, workers):
                yield job
        except Killed as why:
            raise RunFailed(f"{why}; call it again") from None

    return work


def cluster(address: str, workers: int, device: torch.device = CPU) -> Pool:
    """Workers of a Ray cluster; what is lost with one is done by another. ScenarioError with another device."""
    need_ray()
    if device != CPU:
        raise ScenarioError("device: machines of a cluster compute on their CPUs; expected no other device with ray")

    def work(jobs: Sequence[Job]) -> Iterator[Job]:
        ray = connect(address, workers)
        run = ray.remote(Job.run).options(num_cpus=1, max_retries=RETRIES)
        pending = {run.remote(job): job for job in jobs}
        while pending:
            [done], _ = ray.wait(list(pending))
            ray.get(done)
            yield pending.pop(done)

    return work
