"""How a run is taken up where it stood: its timeline is repeated without training, and its numbers are put back.

The repeated timeline is that of the same scenario on vectors of no length. Wherever it depended on numbers, these were
noted (`fedsim.readings`); its trace has to have the digest of the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import torch

from fedsim.checkpoints import Checkpoint, Checkpoints
from fedsim.coded import CodedSimulation
from fedsim.edges import HierarchySimulation
from fedsim.errors import RunFailed, ScenarioError
from fedsim.executors import Null
from fedsim.experiment import Experiment
from fedsim.learner import Idle
from fedsim.progress import Progress
from fedsim.readings import Readings
from fedsim.server import ServerSimulation
from fedsim.state import Packing, Unpacking
from fedsim.swarm import Swarm
from fedsim.trace import Trace
from fedsim.work import Deferred, LocalResult, Measured

Federated = ServerSimulation | Swarm | CodedSimulation

VERSIONS = ("fedsim-lab", "numpy", "torch")
"""Whose numbers depend on it."""

OTHERWISE = "this run cannot be taken up: its timeline depends on numbers that nobody noted; run it anew"


def taken(experiment: Experiment, simulation: Federated, trace: Trace) -> Checkpoint:
    """A checkpoint of a simulation between two events. What is pending stays so.

    TypeError if something has a state that cannot be written down.
    """
    packing, progress = Packing(), simulation.progress
    holders = sorted(simulation.world.holders.members.items())
    facts = {
        "scenario": experiment.arm.digest,
        "data": experiment.dataset.digest,
        "versions": {name: version(name) for name in VERSIONS},
        "turns": progress.turns,
        "trace": trace.digest(),
        "readings": [[each.count, list(each.noted.items())] for each in readings(simulation)],
        "holders": [[number, packing.refer(holder)["record"]] for number, holder in holders],
        "state": {name: packing.attributes(part) for name, part in parts(experiment, simulation).items()},
    }
    return Checkpoint({**facts, "records": packing.records()}, packing.arrays)


def parts(experiment: Experiment, simulation: Federated) -> dict[str, object]:
    """All that changes while a simulation goes on."""
    return {"simulation": simulation, "progress": simulation.progress, "trainer": experiment.trainer}


def readings(simulation: Federated) -> Iterator[Readings]:
    """Of its servers and their policies of selection."""
    edges = list(simulation.edges.values()) if isinstance(simulation, HierarchySimulation) else []
    for cell in [simulation, *edges] if isinstance(simulation, ServerSimulation) else []:
        yield cell.aggregator.readings
        if (own := getattr(cell.aggregator.roster.select, "readings", None)) is not None:
            yield own


def refusal(experiment: Experiment, simulation: Federated) -> str | None:
    """Why a run cannot be taken up in the middle; None: it can."""
    keys, select = experiment.arm.keys, experiment.select(0)
    if experiment.timing_only:
        return "nothing is trained, so that time passes anew as fast as it could be repeated"
    if isinstance(simulation, ServerSimulation) and not simulation.virtual:
        return "its time was told from outside"
    if isinstance(simulation, Swarm) and not getattr(simulation.algorithm, "resumable", False):
        return f"peers.{keys.peers.name} does not say that all its numbers are its nodes' (resumable)"
    if select.reads_numbers and not hasattr(select, "readings"):
        return f"select.{keys.select.name} reads numbers, and does not note them (readings)"
    return None


def latest(experiment: Experiment, checkpoints: Checkpoints, tell: Callable[[str], None]) -> Checkpoint | None:
    """The newest that is whole; `tell` is told what is wrong with others, or that there is none.

    Raises:
        ScenarioError: if it is another scenario's, or another fedsim's.
    """
    found, faults = checkpoints.latest()
    for fault in faults:
        tell(f"checkpoint {fault}; it is not used")
    if found is None:
        if checkpoints.folder.parent.exists():
            tell("there is no checkpoint: it begins anew")
        return None
    for word in check_origin(experiment, found.facts):
        tell(word)
    return found


def check_origin(experiment: Experiment, facts: Mapping[str, Any]) -> list[str]:
    """What is to be said of where a checkpoint comes from."""
    if facts["scenario"] != experiment.arm.digest:
        raise ScenarioError("scenario.yaml: it was changed after this run had begun; run the changed one anew")
    if facts.get("data") != experiment.dataset.digest:
        data = experiment.arm.keys.data.name
        raise ScenarioError(f"data.{data}: these are other examples than this run had begun with; run it anew")
    here, there = {name: version(name) for name in VERSIONS}, facts["versions"]
    other = [f"{name} {there[name]}, and this is {here[name]}" for name in VERSIONS if there[name] != here[name]]
    if there["fedsim-lab"] != here["fedsim-lab"]:
        raise ScenarioError(f"this run was begun by {other[0]}: go on with that, or run it anew")
    return [f"it was begun with {one}: numbers may differ in the last digits" for one in other]


class Repetition:
    """Lets a fresh, hollow simulation pass its time again up to a checkpoint, and wakes it there."""

    def __init__(self, experiment: Experiment, simulation: Federated, trace: Trace, checkpoint: Checkpoint) -> None:
        self.experiment, self.simulation, self.trace, self.checkpoint = experiment, simulation, trace, checkpoint
        for each, (count, noted) in zip(readings(simulation), checkpoint.facts["readings"], strict=True):
            each.replay(count, dict(noted))
        self.asleep: list[tuple[object, str, Any]] = []
        """What takes no part in it: whose, what, and what it is."""
        nothing = torch.zeros(0)
        progress = simulation.progress
        self.replace(simulation.world, "executor", Null(LocalResult(nothing, 0.0, extra=nothing)))
        self.replace(progress, "evaluate", lambda params: Measured())
        self.replace(progress, "record", lambda progress: None)
        self.replace(progress, "watch", lambda progress, now: None)
        self.replace(progress, "look", self.look)
        if isinstance(simulation, CodedSimulation):
            self.replace(simulation, "learner", Idle([nothing] * len(simulation.params)))

    def replace(self, whose: object, what: str, stand_in: Any) -> None:
        """Until it wakes."""
        self.asleep.append((whose, what, getattr(whose, what)))
        setattr(whose, what, stand_in)

    def look(self, progress: Progress) -> None:
        """Something is going to happen; perhaps the first thing after the checkpoint.

        Raises:
            RunFailed: if time has not passed as it did before.
        """
        if progress.turns < self.checkpoint.turns:
            return
        if self.trace.digest() != self.checkpoint.facts["trace"]:
            raise RunFailed(OTHERWISE)
        for whose, what, own in self.asleep:
            setattr(whose, what, own)
        self.asleep.clear()
        try:
            self.fill()
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise RunFailed(
                f"this run cannot be taken up: its checkpoint does not fit: {error!r}; run it anew"
            ) from None
        progress.look(progress)

    def check_over(self) -> None:
        """RunFailed if the run was over before it came to the checkpoint."""
        if self.asleep:
            raise RunFailed(OTHERWISE)

    def fill(self) -> None:
        """Put the numbers back, and what is pending into the executor's hands."""
        facts, world = self.checkpoint.facts, self.simulation.world
        members = world.holders.members
        known = dict(facts["holders"])
        missing = [repr(held) for number, held in members.items() if number not in known]
        if missing:
            raise RunFailed(f"this run cannot be taken up: nobody knows the numbers of {missing[0]}; run it anew")
        standing = {place: members[number] for number, place in facts["holders"] if number in members}
        unpacking = Unpacking(self.checkpoint.arrays, facts["records"], standing, self.experiment.params.device)
        for number, place in facts["holders"]:
            members[number] = held = unpacking.records[place]
            if isinstance(held, Deferred):
                held.owner = world.executor
                if held.value is None:
                    world.executor.expect(held)
        for name, part in parts(self.experiment, self.simulation).items():
            unpacking.fill(part, facts["state"][name])
