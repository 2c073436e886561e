"""Experiments are run into folders, or foreseen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import methodcaller
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from fedsim_kernels.language import noted
from torch import Tensor

from fedsim import scenario
from fedsim.accelerator import device_of, exactly
from fedsim.checkpoints import FOLDER, Checkpoints
from fedsim.coded import CodedSimulation
from fedsim.data import Dataset
from fedsim.errors import Interrupted, RunFailed, ScenarioError
from fedsim.experiment import Experiment, assemble
from fedsim.folder import SCENARIO, RunFolder
from fedsim.keeping import Keeper
from fedsim.picture import draw
from fedsim.processes import Killed, side_by_side
from fedsim.progress import Progress
from fedsim.receipt import receipt
from fedsim.repeating import Federated, Repetition, latest, refusal, taken
from fedsim.results import Run, load
from fedsim.selection import Uniform
from fedsim.server import ServerSimulation
from fedsim.trace import Trace
from fedsim.traffic import Federation, loaded
from fedsim.vector import mean

Watch = Callable[[Progress, int], None]
Finished = Callable[[str, int, int], None]
"""Told a run's label, and how many of how many are done."""
Tell = Callable[[str], None]


def conduct(
    experiment: Experiment, path: Path, watch: Watch = lambda progress, now: None, resume: Tell | None = None,
    live: Callable[[Federated], Federated] = lambda simulation: simulation,
) -> Run:  # fmt: skip
    """Let time pass, and write what happens into a run folder; if it fails, what had happened stays readable.

    What the scenario asks for is simulated, or what `live` makes of that is run. With `resume` it goes on from the
    folder's last checkpoint, and is told what there is to say of that.

    Raises:
        RunFailed: with the reason, which the folder names too.
        Interrupted: if somebody has stopped it.
    """
    began, checkpoints = monotonic(), Checkpoints(path / FOLDER)
    checkpoint = latest(experiment, checkpoints, resume) if resume else None
    folder = RunFolder(path, experiment.arm.resolved, keep=(SCENARIO, FOLDER) if checkpoint else ())
    trace = Trace(path / "trace.parquet")

    def record(progress: Progress) -> None:
        folder.refresh(progress)
        trace.refresh()

    simulation = live(experiment.simulation(trace, hollow=checkpoint is not None, record=record, watch=watch))
    keeper = Keeper(checkpoints, partial(taken, experiment, simulation, trace), refusal(experiment, simulation))
    simulation.progress.look = keeper.look
    repetition = Repetition(experiment, simulation, trace, checkpoint) if checkpoint else None
    try:
        with keeper.heeding(), exactly(), noted() as kernels:
            simulation.run()
        if repetition:
            repetition.check_over()
    except Interrupted:
        raise
    except Exception as error:
        folder.failure(error)
        raise
    finally:
        folder.tables(simulation.progress)
        trace.flush()
        folder.links(loaded(experiment.graph, load(path).trace, Federation.of(experiment.arm.resolved)))
    write_yield(folder, simulation, experiment, monotonic() - began, kernels)
    checkpoints.clear()
    return load(path)


def write_yield(
    folder: RunFolder, simulation: Federated, experiment: Experiment, seconds: float, kernels: Collection[str]
) -> None:
    """What a run that has come to its end leaves in its folder: the models, what else was found, and the receipt."""
    if not experiment.timing_only:
        for stem, params in models(simulation).items():
            named = experiment.layout.unflatten(params)
            folder.weights(stem, {name: tensor.cpu().numpy() for name, tensor in named.items()})
    listener = simulation.wire and simulation.wire.eavesdropper if isinstance(simulation, ServerSimulation) else None
    if listener is not None:
        folder.leakage(*listener.reconstructions())
    folder.batches(experiment.trainer.paces)
    folder.receipt(receipt(simulation, experiment, seconds, kernels))


def models(simulation: Federated) -> dict[str, Tensor]:
    """What a run ends with: a server's model (P,); all that were trained in turn (M, P), and the first; peers' (m, P),
    and their mean.
    """
    if isinstance(simulation, ServerSimulation):
        return {"model": simulation.aggregator.params}
    if isinstance(simulation, CodedSimulation):
        return {"model": simulation.params[0], "models": torch.stack(simulation.params)}
    return {"model": mean(simulation.params), "peers": torch.stack(simulation.params)}


def foresee(experiment: Experiment) -> dict[str, Any]:
    """What a run will cost, from its timeline alone: exact where no limit or choice depends on what training yields."""
    unknown = []
    if experiment.arm.keys.until.accuracy is not None:
        unknown.append("the accuracy may end it sooner")
    reads = experiment.select(0).reads_numbers
    if reads:
        unknown.append("clients as selected uniformly")
    simulation = experiment.simulation(Trace(), timing_only=True, select=Uniform if reads else None)
    if not experiment.timing_only and (why := refusal(experiment, simulation)):
        unknown.append(f"if it is cut off it has to begin anew, as {why}")
    simulation.run()
    counts = simulation.progress
    return {
        "time_s": counts.rows[-1]["time_s"], "versions": counts.version, "updates": counts.updates, "lost": counts.lost,
        "bytes_down": counts.down, "bytes_up": counts.up, "memory": experiment.memory,
        "caveat": "".join(f"; {reason}" for reason in unknown),
    }  # fmt: skip


def run(
    source: str | Path | Mapping[str, Any],
    *overrides: str,
    data: Path | str | None = None,
    out: Path | str = "runs",
    picture: bool = True,
    workers: int = 1,
    device: str = "cpu",
    watch: Callable[[str, Progress, int], None] = lambda label, progress, now: None,
    finished: Finished = lambda label, done, total: None,
) -> Run:
    """Check a scenario, run it (all its arms, if it compares) and return the run folder, read.

    Args:
        source: a scenario file, or the same as a mapping.
        overrides: changes such as `local.steps=5`.
        data: where to look for data first.
        out: the folder that run folders are put into, as <stem>/<digest of the resolved scenario>.
        picture: whether to draw one; a grid has none but its scorecard.
        workers: arms at a time, each in a process of its own if there are several.
        device: where numbers are computed: `cpu`, `cuda` or `cuda:1`; the folder's name does not depend on it.
        watch: told the arm's label, its progress and the virtual time whenever something worth showing has happened,
            unless arms have processes of their own.
        finished: told an arm's label, and how many of how many are done.

    Raises:
        ScenarioError: before anything has run, if the scenario is at fault.
        RunFailed: if a run cannot go on.
    """
    arms = scenario.read(source, overrides)
    data = None if data is None else Path(data)
    place, shared = device_of(device), dict[str, Dataset]()
    experiments = [assemble(arm, data, shared, place) for arm in arms]
    stem = "scenario" if isinstance(source, Mapping) else Path(source).stem
    if len(arms) == 1 and arms[0].label == scenario.SINGLE:
        path = Path(out) / stem / arms[0].digest
    else:
        path = Path(out) / stem / scenario.digest([arm.resolved for arm in arms])
        folder = RunFolder(path, scenario.folded(arms))
        folder.comparison({arm.label: arm.coordinates for arm in arms})
    return _conducted(experiments, path, picture, data, workers, watch, finished)


def resume(
    path: Path | str,
    data: Path | str | None = None,
    workers: int = 1,
    device: str = "cpu",
    watch: Callable[[str, Progress, int], None] = lambda label, progress, now: None,
    finished: Finished = lambda label, done, total: None,
    tell: Tell = lambda line: None,
) -> Run:
    """Go on with a run that was cut off, or with those of a comparison that were; the rest as `run`.

    Args:
        path: the run folder.
        data: where to look for data first.
        workers: as `run`, and so are `device`, `watch` and `finished`.
        tell: told what there is to say of checkpoints that are damaged, missing, or of other versions.

    Raises:
        ScenarioError: if there is no such run, or it was begun by another fedsim, or its scenario has changed.
        RunFailed: if it cannot go on.
    """
    found, data = load(path), None if data is None else Path(data)
    arms = scenario.read(found.scenario)
    if len(arms) > 1 and not found.planned:
        raise ScenarioError(f"{path}: it was cut off before any of its runs had begun; run it anew")
    if found.planned:
        named = zip(arms, found.planned.items(), strict=True)
        arms = [replace(arm, label=label, coordinates=where) for arm, (label, where) in named]
    place, shared = device_of(device), dict[str, Dataset]()
    experiments = [assemble(arm, data, shared, place) for arm in arms]
    return _conducted(experiments, found.path, True, data, workers, watch, finished, tell)


def _conducted(
    experiments: Sequence[Experiment], path: Path, picture: bool, data: Path | None, workers: int,
    watch: Callable[[str, Progress, int], None], finished: Finished, resume: Tell | None = None,
) -> Run:  # fmt: skip
    """All of them, into a folder or, of a comparison, into folders in it; those that are over already are left."""
    stem, arms = path.parent.name, [experiment.arm for experiment in experiments]
    places = {arm.label: path if arm.label == scenario.SINGLE else path / arm.label for arm in arms}
    todo = [each for each in experiments if not (resume and Run(places[each.arm.label]).finished)]
    try:
        if workers > 1 and len(todo) > 1:
            _side_by_side(todo, data, places, workers, finished, resume)
        else:
            _one_by_one(todo, places, stem, watch, finished, resume)
    except (Interrupted, KeyboardInterrupt) as why:
        raise Interrupted(f"{why or 'stopped'}; go on with: fedsim resume {path}") from None
    except Killed as why:
        raise RunFailed(f"{why}; go on with: fedsim resume {path}") from None
    result = load(path)
    if picture and not result.coordinates:
        draw(result.arms, path / "metrics.png", title=stem, note=_provenance(experiments))
    return result


def _one_by_one(
    todo: Sequence[Experiment], places: Mapping[str, Path], stem: str,
    watch: Callable[[str, Progress, int], None], finished: Finished, resume: Tell | None,
) -> None:  # fmt: skip
    """Run arms in turn; `stem` is the label of a run that is compared with nothing."""
    for done, experiment in enumerate(todo, len(places) - len(todo) + 1):
        arm = experiment.arm
        label = stem if arm.label == scenario.SINGLE else arm.label
        conduct(experiment, places[arm.label], partial(watch, label), resume)
        finished(label, done, len(places))


def _side_by_side(
    todo: Sequence[Experiment], data: Path | None, places: Mapping[str, Path], workers: int, finished: Finished,
    resume: Tell | None,
) -> None:  # fmt: skip
    """Run arms in processes of their own."""
    tell, left = resume or (lambda line: None), len(places) - len(todo)
    alone = [Alone(arm.label, arm.resolved, data, places[arm.label], one.params.device, resume is not None)
             for one in todo for arm in [one.arm]]  # fmt: skip
    for done, (one, said) in enumerate(side_by_side(methodcaller("run"), alone, workers), left + 1):
        for line in said:
            tell(f"{one.label}: {line}")
        finished(one.label, done, len(places))


@dataclass(frozen=True)
class Alone:
    """An arm as another process gets it."""

    label: str
    resolved: Mapping[str, Any]
    data: Path | None
    path: Path
    device: torch.device
    resume: bool

    def run(self) -> list[str]:
        """What there was to say."""
        said: list[str] = []
        [arm] = scenario.read(self.resolved)
        conduct(assemble(arm, self.data, device=self.device), self.path, resume=said.append if self.resume else None)
        return said


def _provenance(experiments: Sequence[Experiment]) -> str:
    """Where what pretends to be physical comes from, for the picture's foot."""
    keys = experiments[0].arm.keys
    parts = {"devices": keys.fleet.devices, "availability": keys.fleet.availability,
             "participation": keys.fleet.participation, "stragglers": keys.fleet.stragglers,
             "network": keys.network}  # fmt: skip
    if keys.links is not None and keys.links.trace is not None:
        parts["lines"] = keys.links.trace
    sources = {name: getattr(type(choice.arguments).member, "source", "synthetic") for name, choice in parts.items()}
    return "; ".join(f"{name}: {source}" for name, source in sources.items() if source)
