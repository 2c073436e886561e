"""Looks on while time passes, and says what must hold before every event of any run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

from fedsim.cell import Cell
from fedsim.coded import CodedSimulation
from fedsim.edges import HierarchySimulation
from fedsim.experiment import Experiment
from fedsim.repeating import Federated
from fedsim.server import ServerSimulation
from fedsim.swarm import Swarm
from fedsim.trace import ARRIVE, KINDS, LOST, START, TRAIN, UNASKED, UPLOAD, Trace
from fedsim.work import Letter, Update


@dataclass
class Watcher:
    """Of one simulation."""

    simulation: Federated
    trace: Trace
    time: int = 0
    turns: int = 0
    at_work: dict[int, int] = field(default_factory=dict)
    """Who has begun and not ended, and from which version, by the trace alone."""
    answered: dict[int, int] = field(default_factory=dict)
    """Who has just been heard, and may be accepted once."""
    letters: Counter[tuple[int, int]] = field(default_factory=Counter)
    """How many messages are under way from peer to peer."""
    heard: int = 0
    lost: int = 0

    def __post_init__(self) -> None:
        self.clock, self.carrier = self.simulation.world.clock, self.simulation.world.carrier
        self.serverless = isinstance(self.simulation, Swarm)
        self.write, self.turn = self.trace.add, self.simulation.progress.turned
        self.trace.add = self.told  # type: ignore[method-assign]
        self.simulation.progress.turned = self.turned  # type: ignore[method-assign]
        for cell in self.cells():
            cell.aggregator.take = partial(self.taken, cell, cell.aggregator.take)  # type: ignore[method-assign]

    def cells(self) -> list[Cell]:
        """Servers, and what lies between."""
        if not isinstance(self.simulation, ServerSimulation):
            return []
        edges = self.simulation.edges.values() if isinstance(self.simulation, HierarchySimulation) else ()
        return [self.simulation, *edges]

    # What happens ---------------------------------------------------------------------------------------------------

    def told(
        self, time: int, kind: int, client: int, version: int, nbytes: int = 0, staleness: int = 0, peer: int = -1
    ) -> None:
        """An event is written down."""
        said = f"{KINDS[kind]} of {client} at {time}"
        assert time == self.clock.now >= self.time, f"{said}: it is {self.clock.now}, and was {self.time}"
        assert nbytes >= 0, said
        assert staleness >= 0, said
        if peer >= 0:
            self.posted(kind, client, peer, said)
        elif not self.serverless:
            self.worked(kind, client, version, said)
        self.write(time, kind, client, version, nbytes, staleness, peer)

    def worked(self, kind: int, client: int, version: int, said: str) -> None:
        """A client goes on with what it was asked for, once and from the version that it was given."""
        if kind == START:
            assert client not in self.at_work, said
            self.at_work[client] = version
        elif kind in (TRAIN, UPLOAD):
            assert self.at_work.get(client) == version, said
        elif kind in (ARRIVE, LOST):
            assert self.at_work.pop(client, None) == version, said
            self.heard, self.lost = self.heard + (kind == ARRIVE), self.lost + (kind == LOST)
            self.answered[client] = version

    def posted(self, kind: int, sender: int, peer: int, said: str) -> None:
        """A message is sent, or heard after it was."""
        if kind == UNASKED:  # it was read before
            return
        self.letters[sender, peer] += 1 if kind == UPLOAD else -1
        assert self.letters[sender, peer] >= 0, said

    def taken(self, cell: Cell, take: Any, update: Update) -> bool:
        """An algorithm accepts an update: of somebody whom it has asked, and once."""
        assert self.answered.pop(update.client, None) == update.version, update
        assert update.version <= cell.aggregator.version, update
        assert update.examples > 0, update
        assert update.steps > 0, update
        assert update.duration >= 0, update
        return take(update)

    # How things stand -----------------------------------------------------------------------------------------------

    def turned(self) -> None:
        """Something is going to happen, so nothing is half done."""
        assert self.clock.now >= self.time
        self.time = self.clock.now
        self.turns += 1
        if self.clock.peek() > self.clock.now:
            self.check()
        self.turn()

    def check(self) -> None:
        """An instant is over: what was sent was heard, was lost or is under way, and no link carries too much."""
        self.carrier.fluid.check()
        if self.serverless:
            held = sum(isinstance(each, Letter) for each in self.simulation.world.holders.members.values())
            assert sum(self.letters.values()) == held
            return
        counts = self.simulation.progress
        assert counts.lost == self.lost
        if isinstance(self.simulation, CodedSimulation):
            assert counts.updates == self.heard
            assert set(self.at_work) <= set(self.simulation.running)
        else:
            assert counts.updates == self.heard
            assert set(self.at_work) == {client for cell in self.cells() for client in cell.jobs}


@contextmanager
def watched() -> Iterator[list[Watcher]]:
    """Every simulation that is set up meanwhile, with somebody who looks on."""
    watchers: list[Watcher] = []
    make = Experiment.simulation

    def simulation(experiment: Experiment, trace: Trace, *args: Any, **hooks: Any) -> Federated:
        made = make(experiment, trace, *args, **hooks)
        watchers.append(Watcher(made, trace))
        return made

    with patch.object(Experiment, "simulation", simulation):
        yield watchers
