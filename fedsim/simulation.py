"""Virtual time for a whole federation: a clock, a network that shares its links, a fleet, an executor and a trace.

Time is priced from sizes and counts, never from values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import ClassVar

import networkx as nx

from fedsim.carrier import Carrier
from fedsim.clock import Clock, seldom_collected
from fedsim.errors import Stalled
from fedsim.faults import NONE, Faults
from fedsim.fleet import Fleet
from fedsim.holders import Holders
from fedsim.progress import Model, Progress
from fedsim.stalling import Stalling, Timing
from fedsim.trace import Trace
from fedsim.units import FOREVER, written_duration
from fedsim.work import Deferred, Executor, Kept, LocalTask


@seldom_collected()
def pass_time(clock: Clock, progress: Progress, model: Model, state: Callable[[], str]) -> None:
    """From time 0 until a limit is reached, measuring a model on the way; `state` says how things stand.

    Raises:
        Stalled: if nothing can happen any more, or nothing comes of what happens.
        TrainingFailed: if a client's local training breaks.
    """
    while not progress.over:
        progress.turned()
        upcoming = clock.peek()
        if upcoming <= progress.horizon:
            clock.step()
        elif upcoming == inf and progress.until.time is None:
            raise Stalled(f"after virtual time {written_duration(clock.now)} nothing can happen any more: {state()}")
        else:
            progress.measure(model, upcoming)
    progress.finish(model, clock.now)


@dataclass
class Simulation:
    """What server and peer algorithms are simulated on."""

    fleet: Fleet
    graph: nx.Graph
    executor: Executor
    trace: Trace
    keeps: bool = False
    """Whether each local training goes on from what the client's last one has left, whatever the algorithm."""
    stalling: Stalling | None = None
    """Who attacks by the time that they take."""
    faults: Faults = NONE
    """What goes wrong."""
    changing: ClassVar[tuple[str, ...]] = ("executor",)

    def __post_init__(self) -> None:
        self.holders = Holders()
        self.clock = Clock()
        self.carrier = Carrier(self.clock, self.graph)

    def promise(self, task: LocalTask, due: int, after: Kept | None = None) -> Deferred:
        """The executor's: see `Executor.submit`."""
        return self.holders.add(self.executor.submit(task, due, after))

    def timing(self, client: int, version: int) -> Timing | None:
        """What a client that attacks does with its time."""
        return self.stalling.of(client, version) if self.stalling else None

    def training_time(self, client: int, version: int, ordinal: int, examples: int, flops: float) -> int:
        """Microseconds, at least 1, of the client's n-th local training, which starts from this version."""
        usual = self.fleet.training_time(client, ordinal, examples, flops)
        timing = self.timing(client, version)
        factor = (timing.factor if timing else 1.0) * self.faults.pace(client)
        return usual if factor == 1 else max(1, round(min(usual * factor, FOREVER)))
