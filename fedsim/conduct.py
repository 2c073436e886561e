"""Experiments are run into folders, or foreseen."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from fedsim_kernels.language import noted
from torch import Tensor

from fedsim import scenario
from fedsim.accelerator import card, device_of, exactly
from fedsim.coded import CodedSimulation
from fedsim.data import Dataset
from fedsim.disclosure import disclosed, disclosed_by_peers
from fedsim.experiment import Experiment, assemble
from fedsim.optimizers.memory import state_bytes
from fedsim.picture import draw
from fedsim.progress import Progress
from fedsim.results import Run, RunFolder, load
from fedsim.scenario import Arm
from fedsim.selection import Uniform
from fedsim.server import ServerSimulation
from fedsim.swarm import Swarm
from fedsim.trace import Trace
from fedsim.traffic import Federation, loaded
from fedsim.vector import mean

Watch = Callable[[Progress, int], None]
Finished = Callable[[str, int, int], None]
"""Told a run's label, and how many of how many are done."""
Federated = ServerSimulation | Swarm | CodedSimulation


def conduct(experiment: Experiment, path: Path, watch: Watch = lambda progress, now: None) -> Run:
    """Let time pass, and write what happens into a run folder; if it fails, what had happened stays readable.

    Raises:
        RunFailed: with the reason, which the folder names too.
    """
    began = monotonic()
    folder = RunFolder(path, experiment.arm.resolved)
    trace = Trace(path / "trace.parquet")

    def record(progress: Progress) -> None:
        folder.refresh(progress)
        trace.refresh()

    simulation = experiment.simulation(trace, record=record, watch=watch)
    try:
        with exactly(), noted() as kernels:
            simulation.run()
    except Exception as error:
        folder.failure(error)
        raise
    finally:
        folder.tables(simulation.progress)
        trace.flush()
        folder.links(loaded(experiment.graph, load(path).trace, Federation.of(experiment.arm.resolved)))
    if not experiment.timing_only:
        for stem, params in models(simulation).items():
            named = experiment.layout.unflatten(params)
            folder.weights(stem, {name: tensor.cpu().numpy() for name, tensor in named.items()})
    listener = simulation.wire and simulation.wire.eavesdropper if isinstance(simulation, ServerSimulation) else None
    if listener is not None:
        folder.leakage(*listener.reconstructions())
    folder.batches(experiment.trainer.paces)
    folder.receipt(_receipt(simulation, experiment, monotonic() - began, kernels))
    return load(path)


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
    simulation.run()
    counts = simulation.progress
    return {
        "time_s": counts.rows[-1]["time_s"], "versions": counts.version, "updates": counts.updates, "lost": counts.lost,
        "bytes_down": counts.down, "bytes_up": counts.up, "memory": experiment.memory,
        "caveat": "".join(f"; {reason}" for reason in unknown),
    }  # fmt: skip


def _receipt(simulation: Federated, experiment: Experiment, seconds: float, kernels: Collection[str]) -> dict[str, Any]:
    progress, trace, trainer = simulation.progress, simulation.trace, experiment.trainer
    told: dict[str, Any] = {}
    if isinstance(simulation, ServerSimulation):
        told = disclosed(experiment, simulation)
    elif isinstance(simulation, Swarm):
        told = disclosed_by_peers(experiment, simulation)
    return {
        "scenario": experiment.arm.digest,
        "seed": experiment.arm.keys.seed,
        "device": {"kind": experiment.params.device.type, "card": card(experiment.params.device)},
        "kernels": sorted(kernels),
        "versions": {"python": platform.python_version(), **{
            name: version(name) for name in ("fedsim-lab", "numpy", "simpy", "torch")}},
        "counts": {"versions": progress.version, "updates": progress.updates, "lost": progress.lost,
                   "trained": simulation.world.executor.trained, "bytes_down": progress.down, "bytes_up": progress.up,
                   **progress.tallies},
        "trace": {"rows": trace.count, "sha256": trace.digest()},
        "optimizer_state_bytes": state_bytes(trainer.optimizer, trainer.layout, trainer.stackable),
        **told,
        "wall_seconds": round(seconds, 3),
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
        result = conduct(experiments[0], path, lambda progress, now: watch(stem, progress, now))
    else:
        path = Path(out) / stem / scenario.digest([arm.resolved for arm in arms])
        folder = RunFolder(path, scenario.folded(arms))
        folder.comparison({arm.label: arm.coordinates for arm in arms})
        if workers > 1:
            _side_by_side(arms, data, path, workers, place, finished)
        else:
            for done, experiment in enumerate(experiments, 1):
                label = experiment.arm.label
                conduct(experiment, path / label, lambda progress, now, label=label: watch(label, progress, now))
                finished(label, done, len(arms))
        result = load(path)
    if picture and not result.coordinates:
        draw(result.arms, path / "metrics.png", title=stem, note=_provenance(experiments))
    return result


def _side_by_side(
    arms: Sequence[Arm], data: Path | None, path: Path, workers: int, device: torch.device, finished: Finished
) -> None:
    """Run arms in processes of their own, one thread each."""
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        pending = {pool.submit(_alone, arm.resolved, data, path / arm.label, device): arm.label for arm in arms}
        try:
            for done, future in enumerate(as_completed(pending), 1):
                future.result()
                finished(pending[future], done, len(arms))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _alone(resolved: Mapping[str, Any], data: Path | None, path: Path, device: torch.device) -> None:
    [arm] = scenario.read(resolved)
    conduct(assemble(arm, data, device=device), path)


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
