"""A checked scenario, put together from both wings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import networkx as nx
import numpy as np
import torch
from torch import nn

from fedsim.accelerator import CPU
from fedsim.attacks.liars import Poisoning
from fedsim.coded import CodedSimulation
from fedsim.data import Dataset, Parts, data_folders
from fedsim.errors import ScenarioError
from fedsim.evaluation import EnsembleEvaluator, Evaluator, PeerEvaluator, Robust
from fedsim.faults import NONE, Faults
from fedsim.fitness import exam, learned, personal, refuse_unfit
from fedsim.fleet import Fleet
from fedsim.hostility import Hostility
from fedsim.models import initial_params, training_flops
from fedsim.models.binary import Maturing
from fedsim.network import Conditions
from fedsim.objectives import FedRBN, Plain
from fedsim.own_models import OwnModels
from fedsim.probed import Probed
from fedsim.progress import Progress
from fedsim.rng import stream
from fedsim.scenario import Arm
from fedsim.selection import Select
from fedsim.server import ServerSimulation
from fedsim.stage import Selects, Stage
from fedsim.swarm import Swarm
from fedsim.trace import Trace
from fedsim.training import Trainer
from fedsim.vector import Layout
from fedsim.work import ClientState, Measured
from fedsim.workload import Workload


@dataclass
class Experiment:
    """An arm with its data loaded, its fleet drawn and its model made: all that is needed to let time pass."""

    arm: Arm
    given: Mapping[str, Any]
    fleet: Fleet
    graph: nx.Graph
    work: Workload
    trainer: Trainer
    evaluator: Evaluator
    layout: Layout
    params: torch.Tensor
    hostility: Hostility
    dataset: Dataset

    @property
    def timing_only(self) -> bool:
        """Whether nothing is to be trained."""
        return self.arm.keys.executor.name == "null"

    @property
    def memory(self) -> int:
        """Bytes, roughly: the dataset, and for each client of a stack its parameters, gradients and start."""
        tensors = self.trainer.x, self.trainer.y
        stack = self.trainer.cohort * 3 * 4 * self.layout.size
        return sum(tensor.nbytes for tensor in tensors) + stack

    def simulation(
        self, trace: Trace, timing_only: bool | None = None, select: Selects | None = None, hollow: bool = False,
        **hooks: Any,
    ) -> ServerSimulation | Swarm | CodedSimulation:  # fmt: skip
        """A fresh simulation at time 0; the first arguments overrule the scenario, `hooks` are told of its progress.

        A `hollow` one has vectors of no length until numbers are put into it.
        """
        timing_only = self.timing_only if timing_only is None else timing_only
        select = select or self.select
        if timing_only and select(0).reads_numbers:
            raise ScenarioError(
                "select: this policy depends on what training yields, so it cannot run without training"
            )
        progress = Progress(
            self.arm.build({}, "until"),
            self.arm.keys.evaluate.every,
            evaluate=(lambda _: Measured()) if timing_only else self.judge,
            **hooks,
        )
        progress.patience += 100 * len(self.work.steps)
        if self.trainer.probe is not None and not timing_only:
            progress.probed = Probed()
        stage = Stage(self, trace, progress, select, timing_only, hollow)
        made = self._set_up(stage)
        if not timing_only and isinstance(self.trainer.model, Maturing):
            progress.evaluate = AtVersion(self, progress, progress.evaluate)
        return made

    def _set_up(self, stage: Stage) -> ServerSimulation | Swarm | CodedSimulation:
        if self.arm.keys.peers is not None:
            return stage.swarm()
        if self.arm.keys.coding is not None:
            return stage.coded()
        return stage.flat() if self.arm.keys.edges is None else stage.hierarchy()

    @property
    def judge(self) -> Callable[[Any], Measured]:
        """What measures a server's model, or all those of peers, or all that are trained in turn."""
        keys = self.arm.keys
        if keys.coding is not None:
            return EnsembleEvaluator(self.evaluator)
        if keys.peers is None:
            return self.evaluator
        liars = self.hostility.liars
        return PeerEvaluator(self.evaluator, keys.evaluate.clients, liars.who if liars else ())

    def own_models(self, states: Callable[[], Mapping[int, ClientState]]) -> OwnModels:
        """What measures the models that clients have for themselves."""
        objective = self.trainer.objective if isinstance(self.trainer.objective, FedRBN) else None
        return OwnModels(self.evaluator, self.trainer.personal, self.dataset, self.trainer.parts, states, objective,
                         self.arm.learning_seed, self.arm.keys.evaluate.clients)  # fmt: skip

    def another_start(self, number: int) -> torch.Tensor:
        """The start of a further model, (P,); that of number 0 is `params`."""
        if number == 0:
            return self.params
        seed = int(stream(self.arm.learning_seed, "model", number).integers(2**63))
        return initial_params(lambda: self.arm.build(self.given, "model"), seed)[1].to(self.params.device)

    def select(self, seed: int) -> Select:
        """The scenario's selection policy, with the draws of this seed."""
        return self.arm.build({**self.given, "seed": seed}, "select")


@dataclass
class AtVersion:
    """Where the model's own way to learn depends on the version: judges by that of the one that is measured."""

    experiment: Experiment
    progress: Progress
    judge: Callable[[Any], Measured]
    changing: ClassVar[tuple[str, ...]] = ("judge",)

    def __call__(self, params: Any) -> Measured:
        """Metrics."""
        trainer, evaluator, version = self.experiment.trainer, self.experiment.evaluator, self.progress.version
        evaluator.indicators.version = version
        if evaluator.robust is not None:
            evaluator.robust = replace(evaluator.robust, source=trainer.plain_at(version))
        return self.judge(params)


def assemble(
    arm: Arm, data: Path | None = None, loaded: dict[str, Dataset] | None = None, device: torch.device = CPU
) -> Experiment:
    """Load the data, draw the fleet, make the model.

    All that is drawn is drawn on the CPU, so that it is the same wherever numbers are computed.

    Args:
        arm: what was checked.
        data: the folder given by the caller, searched first.
        loaded: datasets that earlier arms have loaded, by their keys.
        device: where numbers are computed.

    Raises:
        ScenarioError: if the parts do not fit together, or data are missing.
    """
    keys = arm.keys
    seed, clients = keys.seed, keys.fleet.clients
    loaded = {} if loaded is None else loaded
    given: dict[str, Any] = {"seed": seed, "folders": data_folders(data, keys.folder)}
    source = arm.build(given, "data")
    dataset = _dataset(arm, source, given["folders"], loaded)
    parts = source.partition.split(dataset, clients, seed)
    given |= {"shape": dataset.shape, "classes": dataset.outputs, "vocabulary": len(dataset.vocabulary)}
    given |= {"clients": clients, "workers": clients, "jobs": keys.until.versions, "versions": keys.until.versions}
    given |= {"labels": _label_distributions(dataset, parts), "tasks": dataset.tasks, "outputs": dataset.outputs}
    given |= {"dataset": dataset, "parts": parts}
    model, params = learned(arm, given, dataset)
    model, params, dataset = model.to(device), params.to(device), _placed(dataset, device, loaded)
    layout = given["layout"] = Layout.of(model)
    hostility = Hostility(arm, given)
    poisoning = hostility.poisoning(dataset)
    local = arm.build(given | {"optimizer": arm.build(given, "local", "optimizer")}, "local")
    trainer = _trainer(arm, local, model, dataset, parts, poisoning)
    shared = layout.size - int(trainer.personal.mask.sum())
    work = _workload(local, parts.sizes, training_flops(model, dataset.x[:1]), 4 * shared)
    fleet = equipped(arm, given)
    graph = linked(arm, given, fleet, keys.peers is not None, Faults.of(arm))
    evaluator = _evaluator(arm, model, dataset, trainer, poisoning)
    experiment = Experiment(arm, given, fleet, graph, work, trainer, evaluator, layout, params, hostility, dataset)
    experiment.simulation(Trace())  # what it refuses is refused before anything runs
    return experiment


def _dataset(arm: Arm, source: Any, folders: Sequence[Path], loaded: dict[str, Dataset]) -> Dataset:
    """Loaded, unless an earlier arm has done so. ScenarioError if an accuracy is to be reached that it cannot have."""
    drawn = "seed" in signature(type(arm.keys.data.arguments).member).parameters
    name = json.dumps([arm.resolved["data"], arm.keys.seed if drawn else None])
    dataset = loaded[name] = loaded.get(name) or source.load(folders)
    if arm.keys.until.accuracy is not None and not dataset.has_classes:
        place = arm.place(("until", "accuracy"))
        raise ScenarioError(f"{place}: until.accuracy: these data have no classes, so there is no accuracy to reach")
    return dataset


def _placed(dataset: Dataset, device: torch.device, loaded: dict[str, Dataset]) -> Dataset:
    """A dataset on a device; moved once for all arms."""
    if dataset.x.device != device:
        name = f"{id(dataset)} on {device}"
        dataset = loaded[name] = loaded.get(name) or dataset.to(device)
    return dataset


def _trainer(
    arm: Arm, local: Any, model: nn.Module, dataset: Dataset, parts: Parts, poisoning: Poisoning | None
) -> Trainer:
    """ScenarioError where a local step does not fit the data, the model or itself."""
    refuse_unfit(arm, local, dataset, model)
    kept, own = local.optimizer_state == "kept", personal(arm, local, model)
    try:
        return Trainer(model, dataset.x, dataset.y, parts, local.batch, local.optimizer, arm.learning_seed, keeps=kept,
                       private=local.private, objective=local.objective, poisoning=poisoning,
                       source=local.source, rules=local.rules, personal=own,
                       probe=local.probe, growth=local.growth)  # fmt: skip
    except ValueError as error:
        raise ScenarioError(f"{arm.place(('local', 'optimizer_state'))}: local.optimizer_state: {error}") from None


def _evaluator(
    arm: Arm, model: nn.Module, dataset: Dataset, trainer: Trainer, poisoning: Poisoning | None
) -> Evaluator:
    """With what is attacked, if something is."""
    keys = arm.keys
    each = keys.evaluate.clients and keys.peers is None and not trainer.judged_apart
    evaluator = Evaluator(model, trainer.layout, dataset, trainer.parts, keys.evaluate.train, each)
    if keys.evaluate.robust is not None:
        attack = replace(arm.build({}, "evaluate", "robust"), best=True)
        evaluator.robust = Robust(attack, trainer.plain, arm.learning_seed)
    if keys.evaluate.exam is not None:
        evaluator.exam = exam(arm, model, dataset)
    if poisoning is not None:
        evaluator.aim_at(*poisoning.poison.aim(dataset.x_test, dataset.y_test))
    return evaluator


def equipped(arm: Arm, given: Mapping[str, Any]) -> Fleet:
    """The fleet that a file describes; its clients get their devices, and what may befall them."""
    return Fleet(
        devices=arm.build(given, "fleet", "devices").draw(arm.keys.fleet.clients, arm.keys.seed),
        availability=arm.build(given, "fleet", "availability"),
        participation=arm.build(given, "fleet", "participation"),
        stragglers=arm.build(given, "fleet", "stragglers"),
        failures=arm.build({}, "fleet", "drop"),
        seed=arm.keys.seed,
    )


def linked(
    arm: Arm, given: Mapping[str, Any], fleet: Fleet, serverless: bool = False, faults: Faults = NONE
) -> nx.Graph:
    """The clients' devices at their places, with or without a server, and what becomes of the links in time."""
    network = arm.build(given, "network")
    make = network.serverless if serverless else network.graph
    graph = make([device.down for device in fleet.devices], [device.up for device in fleet.devices])
    links = Conditions() if arm.keys.links is None else arm.build(given, "links")
    return faults.weathered(graph, links, len(fleet.devices))


def _label_distributions(dataset: Dataset, parts: Parts) -> list[list[float]]:
    """Each client's, over the labels that it sees: (clients, classes); (clients, 0) where there are no classes."""
    if not dataset.has_classes:
        return [[] for _ in parts.indices]
    labels = parts.labels or [dataset.y.numpy()[part] for part in parts.indices]
    counts = (np.bincount(seen, minlength=dataset.outputs) for seen in labels)
    return [(count / max(1, count.sum())).tolist() for count in counts]


def _workload(local: Any, sizes: Sequence[int], flops: float, nbytes: int) -> Workload:
    batches = [min(local.batch, held) for held in sizes]
    steps = [
        local.steps or local.epochs * -(-held // max(1, batch)) for held, batch in zip(sizes, batches, strict=True)
    ]
    objective = local.objective or Plain()
    source = local.source.effort(objective.losses)
    looks = (source - 1 + sum(look.effort for look in local.looks)) * objective.points
    probe = local.probe.effort if local.probe else lambda steps, batch: 0.0
    seen = [
        round(count * batch * (objective.effort_of(client) + looks) + probe(count, batch))
        for client, (count, batch) in enumerate(zip(steps, batches, strict=True))
    ]
    share = None if local.shrink is None else partial(local.shrink.share, local.passes)
    return Workload(steps=steps, seen=seen, held=sizes, flops=flops, down=nbytes, up=nbytes, share=share)
