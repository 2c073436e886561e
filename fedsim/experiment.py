"""A checked scenario, put together from both wings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch

from fedsim.aggregators.aggregator import Aggregator
from fedsim.cell import Workload, round_trip
from fedsim.data import Dataset, Parts, data_folders
from fedsim.edges import Edge, HierarchySimulation
from fedsim.errors import ScenarioError
from fedsim.evaluation import Evaluator
from fedsim.executors import Null
from fedsim.fleet import Fleet
from fedsim.models import initial_params, training_flops
from fedsim.network import Tree, edge_name, policy_of
from fedsim.progress import Progress
from fedsim.rng import stream
from fedsim.roster import Census, Roster
from fedsim.scenario import Arm
from fedsim.selection import Select
from fedsim.server import ServerSimulation
from fedsim.simulation import Carrier, Clock, Simulation
from fedsim.trace import Trace
from fedsim.training import Trainer
from fedsim.vector import Layout
from fedsim.work import LocalResult, Measured

Selects = Callable[[int], Select]
"""Makes a selection policy out of a seed."""


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
        self, trace: Trace, timing_only: bool | None = None, select: Selects | None = None, **hooks: Any
    ) -> ServerSimulation:
        """A fresh simulation at time 0; the first arguments overrule the scenario, `hooks` are told of its progress."""
        timing_only = self.timing_only if timing_only is None else timing_only
        select = select or self.select
        if timing_only and select(0).reads_numbers:
            raise ScenarioError(
                "select: this policy depends on what training yields, so it cannot run without training"
            )
        progress = Progress(
            self.arm.build({}, "until"),
            self.arm.keys.evaluate.every,
            evaluate=(lambda _: Measured()) if timing_only else self.evaluator,
            **hooks,
        )
        progress.patience += 100 * len(self.work.steps)
        stage = Stage(self, trace, progress, select, timing_only)
        return stage.flat() if self.arm.keys.edges is None else stage.hierarchy()

    def select(self, seed: int) -> Select:
        """The scenario's selection policy, with the draws of this seed."""
        return self.arm.build({**self.given, "seed": seed}, "select")


@dataclass
class Stage:
    """Sets up one simulation of an experiment."""

    experiment: Experiment
    trace: Trace
    progress: Progress
    select: Selects
    timing_only: bool

    def flat(self) -> ServerSimulation:
        """One server, and everybody its client."""
        fleet, carrier = self.experiment.fleet, Carrier(Clock(), self.experiment.graph)
        period = partial(round_trip, fleet=fleet, work=self.experiment.work, carrier=carrier)
        census = Census(dict(enumerate(self.experiment.work.held)), period, self.share)
        aggregator = self.aggregator(self.roster(self.experiment.given["seed"], census), "aggregator")
        return ServerSimulation(self.world(aggregator), aggregator, self.work(aggregator), self.progress)

    def hierarchy(self) -> ServerSimulation:
        """Edges between the server and the clients, which belong to the edges in turn."""
        arm, held = self.experiment.arm, self.experiment.work.held
        rounds, seed = arm.keys.edges.rounds, self.experiment.given["seed"]
        network = arm.build(self.experiment.given, "network")
        if not isinstance(network, Tree):
            raise ScenarioError(f"{arm.place(('edges',))}: edges: the network has none; use network: tree")
        if network.edges > len(held):
            raise ScenarioError(f"{arm.place(('network',))}: network.tree: {network.edges} edges are more than clients")
        members = {len(held) + edge: range(edge, len(held), network.edges) for edge in range(network.edges)}
        sums = {name: sum(held[client] for client in clients) for name, clients in members.items()}
        above = self.aggregator(Roster(self.select(seed), census=Census(sums)), "aggregator")
        below = {name: self.edge_aggregator(name, clients) for name, clients in members.items()}
        if above.drift is not None or above.vectors != (1, 1):
            raise ScenarioError(f"{arm.place(('aggregator',))}: aggregator: this one corrects the clients' gradients; "
                                "its clients are edges, which have none")  # fmt: skip
        world = self.world(next(iter(below.values())))
        edges = {
            name: Edge(world, aggregator, self.work(aggregator), self.progress, edge_name(name - len(held)), name,
                       members=frozenset(members[name]), rounds=rounds)
            for name, aggregator in below.items()
        }  # fmt: skip
        work = replace(self.experiment.work, steps=dict.fromkeys(members, rounds), seen={}, held=sums)
        self.progress.patience *= rounds
        return HierarchySimulation(world, above, work, self.progress, edges=edges)

    def edge_aggregator(self, name: int, clients: Sequence[int]) -> Aggregator:
        """The algorithm of one edge; its selection draws are its own."""
        arm, held = self.experiment.arm, self.experiment.work.held
        seed = int(stream(self.experiment.given["seed"], "edge", name).integers(2**31))
        census = Census({client: held[client] for client in clients}, share=self.share)
        aggregator = self.aggregator(self.roster(seed, census), "edges", "aggregator")
        if not aggregator.synchronous:
            raise ScenarioError(f"{arm.place(('edges', 'aggregator'))}: edges.aggregator: an edge works in rounds, "
                                "which this aggregator does not")  # fmt: skip
        return aggregator

    def aggregator(self, roster: Roster, *path: str) -> Aggregator:
        """The algorithm that stands at this path of the scenario."""
        params = torch.zeros(0) if self.timing_only else self.experiment.params
        momentum = getattr(self.experiment.trainer.optimizer, "momentum", None)
        given = {"params": params, "roster": roster, "local_momentum": momentum}
        return self.experiment.arm.build(given, *path)

    @property
    def share(self) -> Callable[[int], float] | None:
        """A device's share of the turns, where whoever is asked answers."""
        fleet = self.experiment.fleet
        reached = policy_of(self.experiment.graph) != "fail"
        return fleet.participation.share if fleet.reliable and reached else None

    def roster(self, seed: int, census: Census) -> Roster:
        """Of devices, who take part as their fleet says."""
        fleet = self.experiment.fleet
        return Roster(self.select(seed), None if fleet.complete else fleet.participation.present, census)

    def work(self, aggregator: Aggregator) -> Workload:
        """What clients have to do and to carry for this algorithm."""
        down, up = aggregator.vectors
        work = self.experiment.work
        return replace(work, down=down * work.down, up=up * work.up)

    def world(self, aggregator: Aggregator) -> Simulation:
        """A clock at 0, the network, and an executor that trains as this algorithm asks."""
        experiment = self.experiment
        nothing = torch.zeros(0)
        executor = Null(LocalResult(nothing, 0.0, extra=nothing)) if self.timing_only else experiment.arm.build(
            {"train": partial(experiment.trainer, drift=aggregator.drift), "worth": experiment.trainer.cohort,
             "row_bytes": 4 * experiment.layout.size, "synchronous": aggregator.synchronous}, "executor")  # fmt: skip
        return Simulation(experiment.fleet, experiment.graph, executor, self.trace)


def assemble(arm: Arm, data: Path | None = None, loaded: dict[str, Dataset] | None = None) -> Experiment:
    """Load the data, draw the fleet, make the model.

    Args:
        arm: what was checked.
        data: the folder given by the caller, searched first.
        loaded: datasets that earlier arms have loaded, by their keys.

    Raises:
        ScenarioError: if the parts do not fit together, or data are missing.
    """
    keys = arm.keys
    seed, clients = keys.seed, keys.fleet.clients
    given: dict[str, Any] = {"seed": seed, "folders": data_folders(data, keys.folder)}
    source = arm.build(given, "data")
    drawn = "seed" in signature(type(keys.data.arguments).member).parameters
    name = json.dumps([arm.resolved["data"], seed if drawn else None])
    loaded = {} if loaded is None else loaded
    dataset = loaded[name] = loaded.get(name) or source.load(given["folders"])
    if keys.until.accuracy is not None and not dataset.has_classes:
        place = arm.place(("until", "accuracy"))
        raise ScenarioError(f"{place}: until.accuracy: these data have no classes, so there is no accuracy to reach")
    parts = source.partition.split(dataset, clients, seed)
    given |= {"shape": dataset.shape, "classes": dataset.outputs, "vocabulary": len(dataset.vocabulary)}
    given |= {"clients": clients, "labels": _label_distributions(dataset, parts)}
    model, params = initial_params(lambda: arm.build(given, "model"), seed)
    layout = Layout.of(model)
    local = arm.build({}, "local")
    trainer = Trainer(model, dataset.x, dataset.y, parts, local.batch, local.optimizer, seed)
    work = _workload(local, parts.sizes, training_flops(model, dataset.x[:1]), 4 * layout.size)
    fleet = Fleet(
        devices=arm.build(given, "fleet", "devices").draw(clients, seed),
        availability=arm.build(given, "fleet", "availability"),
        participation=arm.build(given, "fleet", "participation"),
        stragglers=arm.build(given, "fleet", "stragglers"),
        failures=arm.build({}, "fleet", "drop"),
        seed=seed,
    )
    graph = arm.build(given, "network").graph(
        [device.down for device in fleet.devices], [device.up for device in fleet.devices]
    )
    if keys.links is not None:
        arm.build(given, "links").apply(graph, clients, seed)
    evaluator = Evaluator(model, layout, dataset, parts, keys.evaluate.train, keys.evaluate.clients)
    experiment = Experiment(arm, given, fleet, graph, work, trainer, evaluator, layout, params)
    experiment.simulation(Trace())  # what it refuses is refused before anything runs
    return experiment


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
    seen = [count * batch for count, batch in zip(steps, batches, strict=True)]
    return Workload(steps=steps, seen=seen, held=sizes, flops=flops, down=nbytes, up=nbytes)
