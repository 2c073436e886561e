"""Peers without a server, in virtual time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from sys import maxsize
from typing import TYPE_CHECKING, ClassVar, Protocol

from fedsim.clock import FIRST_RANK, Steps
from fedsim.node import Node, Said, truth
from fedsim.simulation import Simulation, pass_time

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.defences import Guard
    from fedsim.progress import Progress
    from fedsim.workload import Workload


class PeerAlgorithm(Protocol):
    """What every peer does. One that corrects local gradients says so by a `drift` (`fedsim.drift`).

    One whose numbers are all its nodes' (`params`, `memory`, `post`) whenever it waits, and none in local variables but
    promises, is `resumable`: a run can be taken up in the middle.
    """

    def run(self, node: Node) -> Steps:
        """The life of one peer, as it yields what it waits for."""
        ...


@dataclass
class Swarm:
    """Runs one algorithm on all peers of a fleet. Its version is the number of rounds that all of them have done."""

    world: Simulation
    algorithm: PeerAlgorithm
    work: Workload
    progress: Progress
    start: Tensor
    """Everybody's first model, flat (P,)."""
    defence: Guard | None = None
    """Everybody's; None: they believe all that they hear."""
    said: Said = truth
    """What peers say of their models."""
    version: int = field(default=0, init=False)
    done: Counter[int] = field(default_factory=Counter, init=False)
    """How many peers have done so many rounds."""
    changing: ClassVar[tuple[str, ...]] = ("world", "defence", "nodes")

    def __post_init__(self) -> None:
        self.trace, self.clock = self.world.trace, self.world.clock
        self.progress.patience = maxsize
        limit, peers = self.progress.until.versions, len(self.world.fleet.devices)
        drift = getattr(self.algorithm, "drift", None)
        keeps = self.world.keeps or (drift is not None and drift.keeps)
        everybody: dict[int, Node] = {}
        for name in range(peers):
            everybody[name] = Node(
                name, peers, self.world, self.work, self.progress, self.start, limit, keeps, finished=self.count,
                neighbours=everybody, defence=self.defence, said=self.said,
            )  # fmt: skip
        self.nodes = list(everybody.values())

    @property
    def params(self) -> list[Tensor]:
        """The models of all peers, flat (P,) each."""
        return [node.params for node in self.nodes]

    def run(self) -> None:
        """From time 0 until a limit is reached; raises what `pass_time` does."""
        for node in self.nodes:
            self.clock.start(self.algorithm.run(node), FIRST_RANK + node.name)
        pass_time(self.clock, self.progress, self, lambda: f"{self.version} rounds are over for all")

    def count(self, rounds: int) -> None:
        """A peer has done so many rounds."""
        self.done[rounds] += 1
        if self.done[rounds] == len(self.nodes):
            del self.done[rounds]
            self.version = rounds
            self.progress.stepped(rounds, self.clock.now)
