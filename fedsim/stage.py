"""One simulation of an experiment, set up: a server with clients, edges with clients, or peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import networkx as nx
import torch

from fedsim.carrier import Carrier
from fedsim.cell import round_trip
from fedsim.clock import Clock
from fedsim.coded import CodedSimulation
from fedsim.coding.jobdata import JobData
from fedsim.edges import Edge, HierarchySimulation
from fedsim.encoder import Encoder
from fedsim.errors import ScenarioError
from fedsim.executors import Null
from fedsim.faults import Faults
from fedsim.fitness import refuse_beside, refuse_far, refuse_unusual
from fedsim.learner import Idle, Learner
from fedsim.models.binary import Maturing
from fedsim.network import Shape, Tree, edge_name, policy_of
from fedsim.rng import stream
from fedsim.roster import Census, Roster
from fedsim.secure import SecureSimulation
from fedsim.selection import Select
from fedsim.server import ServerSimulation
from fedsim.simulation import Simulation
from fedsim.swarm import Swarm
from fedsim.trace import Trace
from fedsim.twin import twin
from fedsim.units import SECOND
from fedsim.wire.masked import Masked
from fedsim.wiring import Wire, refuse_wire
from fedsim.work import LocalResult

if TYPE_CHECKING:
    from fedsim.aggregators.aggregator import Aggregator
    from fedsim.drift import Drift
    from fedsim.experiment import Experiment
    from fedsim.progress import Progress
    from fedsim.workload import Workload

Selects = Callable[[int], Select]
"""Makes a selection policy out of a seed."""


@dataclass
class Stage:
    """Sets up one simulation of an experiment."""

    experiment: Experiment
    trace: Trace
    progress: Progress
    select: Selects
    timing_only: bool
    hollow: bool = False
    """Whether numbers will be put in later."""

    @property
    def faults(self) -> Faults:
        """What goes wrong."""
        return Faults.of(self.experiment.arm)

    @property
    def start(self) -> torch.Tensor:
        """The first model, flat (P,); of no length where there are no numbers."""
        return torch.zeros(0) if self.timing_only or self.hollow else self.experiment.params

    def flat(self) -> ServerSimulation:
        """One server, and everybody its client."""
        fleet, carrier = self.experiment.fleet, Carrier(Clock(), self.experiment.graph)
        period = partial(round_trip, fleet=fleet, work=self.experiment.work, carrier=carrier)
        census = Census(dict(enumerate(self.experiment.work.held)), period, self.share)
        aggregator = self.aggregator(self.roster(self.experiment.given["seed"], census), "aggregator")
        if aggregator.answers is not None:
            refuse_beside(self.experiment.arm, aggregator.answers)
        self.experiment.hostility.prepare(aggregator, None if self.timing_only else self.progress.tallies)
        self.faults.corrupt(aggregator)
        wire = Wire.of(self.experiment, aggregator)
        work = wire.work(self.work(aggregator))
        train = aggregator.answers or partial(self.experiment.trainer, drift=aggregator.drift)
        world = self.world_of(wire.carry(train), aggregator.synchronous, wire.keeps)
        if not isinstance(wire.codec, Masked):
            simulation = ServerSimulation(world, aggregator, work, self.progress, wire=wire)
            if self.experiment.trainer.judged_apart:
                self.let_clients_be_judged(simulation)
            return simulation
        self.faults.refuse(self.experiment.arm, "rounds under masks")
        threshold = self.experiment.arm.keys.wire.secure.threshold
        return SecureSimulation(world, aggregator, work, self.progress, wire=wire, threshold=threshold,
                                traffic=wire.traffic)  # fmt: skip

    def refuse_personal(self, why: str) -> None:
        """ScenarioError if clients are to have models of their own."""
        arm = self.experiment.arm
        if self.experiment.trainer.judged_apart:
            key = "objective" if arm.keys.local.personal is None else "personal"
            raise ScenarioError(f"{arm.place(('local', key))}: local.{key}: clients have models of their own: {why}")

    def let_clients_be_judged(self, simulation: ServerSimulation) -> None:
        """By their own models, as something of them stays with each; ScenarioError where it could not."""
        arm, wire, drift = self.experiment.arm, simulation.wire, simulation.aggregator.drift
        faults = {
            "a codec's messages are of whole models": wire is None or wire.plain,
            "this aggregator corrects the gradients of whole models": drift is None,
            "then only clients have models: leave out evaluate.train": not arm.keys.evaluate.train,
            "a poison's aim is a model that all share": self.experiment.evaluator.aim is None,
        }
        for why in [why for why, fine in faults.items() if not fine]:
            raise ScenarioError(f"{arm.place(('local', 'personal'))}: local.personal: {why}")
        if not self.timing_only:
            self.progress.evaluate = self.experiment.own_models(
                lambda: {client: kept.settled() for client, kept in simulation.kept.items()})  # fmt: skip

    def hierarchy(self) -> ServerSimulation:
        """Edges between the server and the clients, which belong to the edges in turn."""
        refuse_wire(self.experiment.arm, "edges sum up their clients' models themselves")
        self.refuse_personal("edges serve models that all share")
        self.faults.refuse(self.experiment.arm, "edges and their clients")
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
        if any(one.answers is not None for one in (above, *below.values())):
            raise ScenarioError(f"{arm.place(('edges',))}: edges: they sum up changes of models, which clients of this "
                                "aggregator do not send")  # fmt: skip
        if above.drift is not None or above.vectors != (1, 1):
            raise ScenarioError(f"{arm.place(('aggregator',))}: aggregator: this one corrects the clients' gradients; "
                                "its clients are edges, which have none")  # fmt: skip
        if getattr(above, "reads_losses", False):
            raise ScenarioError(f"{arm.place(('aggregator',))}: aggregator: this one weights clients by their losses; "
                                "its clients are edges, which have none")  # fmt: skip
        one = next(iter(below.values()))
        world = self.world(one.drift, one.synchronous)
        edges = {
            name: Edge(world, aggregator, self.work(aggregator), self.progress, edge_name(name - len(held)), name,
                       members=frozenset(members[name]), rounds=rounds)
            for name, aggregator in below.items()
        }  # fmt: skip
        work = replace(self.experiment.work, steps=dict.fromkeys(members, rounds), seen={}, held=sums, share=None)
        self.progress.patience *= rounds
        return HierarchySimulation(world, above, work, self.progress, edges=edges)

    def swarm(self) -> Swarm:
        """No server, and everybody a peer."""
        self.refuse_personal("peers send whole models")
        self.faults.refuse(self.experiment.arm, "peers", on_the_way=True)
        why = "peers send whole models, which codecs of changes would spoil"
        refuse_wire(self.experiment.arm, why, but=["adversaries", "defence"])
        experiment, arm = self.experiment, self.experiment.arm
        carrier = Carrier(Clock(), experiment.graph)
        given = {
            **experiment.given,
            "apart": lambda one, other: carrier.way(one, other)[1] / SECOND,
            "rounds": arm.keys.until.versions,
            "links": partial(self.links, arm.build(experiment.given, "network")),
        }
        algorithm = arm.build(given, "peers")
        self.refuse_what_peers_lack()
        world = self.world(getattr(algorithm, "drift", None), synchronous=False)
        defence, said = experiment.hostility.peers(algorithm)
        return Swarm(world, algorithm, experiment.work, self.progress, self.start, defence, said)

    def coded(self) -> CodedSimulation:
        """A master, and everybody its worker."""
        refuse_wire(self.experiment.arm, "codes have messages of their own", but=["adversaries"])
        self.experiment.hostility.refuse_all_but_timing()
        self.faults.refuse(self.experiment.arm, "workers of a code")
        experiment, arm = self.experiment, self.experiment.arm
        self.refuse_what_codes_lack()
        code = arm.build(experiment.given, "coding")
        trainer, size = experiment.trainer, experiment.layout.size
        data = JobData(trainer.parts.sizes, trainer.batch, code.chunks, code.models, arm.learning_seed)
        if self.timing_only:
            learner: Learner = Idle([torch.zeros(0)] * code.models)
        else:
            starts = [experiment.another_start(number) for number in range(code.models)]
            learner = Learner(starts, experiment.layout, trainer.optimizer)
        world = self.world_of(Encoder(trainer, data), synchronous=True)
        return CodedSimulation(world, code, learner, data, experiment.work.flops, size, self.progress)

    def refuse_what_codes_lack(self) -> None:
        """ScenarioError if workers are to come and go, or jobs to be other than one gradient of data that stay."""
        arm = self.experiment.arm
        self.refuse_absence("a code needs all its workers", "availability", "participation")
        if arm.keys.edges is not None:
            raise ScenarioError(f"{arm.place(('edges',))}: edges: a code's workers answer to one master")
        if arm.keys.local.steps != 1:
            raise ScenarioError(f"{arm.place(('local',))}: local: a job is one gradient of {arm.keys.local.batch} "
                                "examples of everybody's: with coding it has to say steps: 1")  # fmt: skip
        refuse_unusual(arm, "a job is one gradient of the loss of examples as they are")
        if isinstance(self.experiment.trainer.model, Maturing):
            raise ScenarioError(f"{arm.place(('model',))}: model: a job's gradient is of a model that stays as it is, "
                                "and its o grows")  # fmt: skip
        if arm.keys.evaluate.clients:
            raise ScenarioError(f"{arm.place(('evaluate', 'clients'))}: evaluate.clients: a code's workers have no "
                                "models of their own")  # fmt: skip
        if self.experiment.trainer.parts.redraw is not None:
            raise ScenarioError(f"{arm.place(('data',))}: data: a code needs data that stay as they are, "
                                "not drawn anew")  # fmt: skip

    def refuse_absence(self, why: str, *keys: str) -> None:
        """ScenarioError if somebody may not be there, in one of these ways."""
        arm, fleet = self.experiment.arm, self.experiment.fleet
        always = arm.keys.fleet.availability.name == "always"
        usual = {"availability": always, "participation": fleet.complete, "drop": not fleet.failures.possible}
        for key in [key for key in keys if not usual[key]]:
            raise ScenarioError(f"{arm.place(('fleet', key))}: fleet.{key}: {why}")

    def refuse_what_peers_lack(self) -> None:
        """ScenarioError if peers are to come and go, to fail, or to have edges."""
        arm = self.experiment.arm
        why = "without a server everybody has to be there"
        self.refuse_absence(why, "availability", "participation", "drop")
        if arm.keys.edges is not None:
            raise ScenarioError(f"{arm.place(('edges',))}: edges: there are none without a server")
        if policy_of(self.experiment.graph) == "fail":
            raise ScenarioError(f"{arm.place(('links', 'on_outage'))}: links.on_outage: peers need every message; "
                                "take stall or reroute")  # fmt: skip

    def links(self, network: Any) -> nx.Graph:
        """Which peers the network links directly."""
        if not isinstance(network, Shape):
            raise ScenarioError("graph: network: this network has no links between clients; name another graph")
        return nx.Graph(network.among(len(self.experiment.work.held)))

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
        given = {"params": self.start, "roster": roster, "local_momentum": self.experiment.trainer.momentum,
                 "seed": self.experiment.arm.learning_seed, "trainer": self.experiment.trainer,
                 "model": self.experiment.evaluator.model, "classes": self.experiment.given["classes"]}  # fmt: skip
        return self.experiment.arm.build(given, *path)

    @property
    def share(self) -> Callable[[int], float] | None:
        """A device's share of the turns, where whoever is asked answers."""
        fleet = self.experiment.fleet
        reached = policy_of(self.experiment.graph) != "fail" and not self.faults.silencing
        return fleet.participation.share if fleet.reliable and reached else None

    def roster(self, seed: int, census: Census) -> Roster:
        """Of devices, who take part as their fleet says."""
        fleet = self.experiment.fleet
        return Roster(self.select(seed), None if fleet.complete else fleet.participation.present, census)

    def work(self, aggregator: Aggregator) -> Workload:
        """What clients have to do and to carry for this algorithm."""
        down, up = aggregator.vectors
        work = self.experiment.work
        work = replace(work, down=down * work.down, up=up * work.up)
        return aggregator.answers.work(work) if aggregator.answers is not None else work

    def world(self, drift: Drift | None, synchronous: bool) -> Simulation:
        """A clock at 0, the network, and an executor that trains as this algorithm asks."""
        return self.world_of(partial(self.experiment.trainer, drift=drift), synchronous)

    def world_of(
        self, train: Callable[[Sequence[Any]], list[LocalResult]], synchronous: bool, keeps: bool = False
    ) -> Simulation:
        """The same, with an executor that makes results so; `keeps`: from what a client's last one has left."""
        experiment = self.experiment
        refuse_far(experiment.arm, experiment.trainer.model)
        nothing = torch.zeros(0)
        executor = Null(LocalResult(nothing, 0.0, extra=nothing)) if self.timing_only else experiment.arm.build(
            {"train": train, "twin": partial(twin, train, (experiment.trainer.x, experiment.trainer.y)),
             "worth": experiment.trainer.cohort, "row_bytes": 4 * experiment.layout.size,
             "synchronous": synchronous}, "executor")  # fmt: skip
        return Simulation(experiment.fleet, experiment.graph, executor, self.trace, keeps or experiment.trainer.goes_on,
                          experiment.hostility.stalling, self.faults)  # fmt: skip
