"""Small federations for tests: a fleet, a star and a training rule that is one line of arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

import torch

from fedsim import experiment, scenario
from fedsim.aggregators.aggregator import Aggregator
from fedsim.carrier import Carrier
from fedsim.cell import round_trip
from fedsim.clock import Clock
from fedsim.executors import Inline, Null, Stacked
from fedsim.fleet import Availability, Device, Failures, Fleet
from fedsim.network import Conditions, Star
from fedsim.progress import Progress, Until
from fedsim.roster import Census, Roster
from fedsim.selection import Select, Uniform
from fedsim.server import ServerSimulation
from fedsim.simulation import Simulation
from fedsim.stalling import Stalling
from fedsim.trace import COLUMNS, Trace
from fedsim.units import FOREVER, SECOND
from fedsim.work import LocalResult, LocalTask
from fedsim.workload import Workload

SIZE = 3


class Windows(Availability):
    """On in these seconds; whoever is not named always."""

    def __init__(self, **seconds: list[tuple[float, float]]):
        self.seconds = seconds

    def windows(self, client: int, seed: int) -> Iterator[tuple[int, int]]:
        """In microseconds."""
        for start, end in self.seconds.get(f"c{client}", [(0, inf)]):
            yield round(start * SECOND), FOREVER if end == inf else round(end * SECOND)


class Recording(Trace):
    """A trace that stays in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, ...]] = []

    def flush(self) -> None:
        """Keep the rows as well."""
        self.rows += zip(*[iter(self._cells)] * len(COLUMNS), strict=True)
        super().flush()

    def of(self, *kinds: int) -> list[tuple[int, ...]]:
        """The rows of these kinds, in order."""
        self.flush()
        return [row for row in self.rows if row[1] in kinds]


def train(tasks: Sequence[LocalTask]) -> list[LocalResult]:
    """A tenth of the way to the client's number, and a little that depends on which of its trainings it is."""
    return [
        LocalResult((task.client - task.params) * 0.1 * task.steps + 0.001 * task.ordinal, loss=1.0, square_loss=1.0)
        for task in tasks
    ]


def devices(*seconds: float, rate: float = inf) -> list[Device]:
    """Clients that take so many seconds for one example, with links of so many bytes per second."""
    return [Device(rate, rate, second) for second in seconds]


def simulation(
    make: Callable[[torch.Tensor, Roster], Aggregator],
    fleet: Sequence[Device] | Fleet,
    until: Until,
    *,
    executor: str = "inline",
    train: Callable[[Sequence[LocalTask]], list[LocalResult]] = train,
    select: Select | None = None,
    star: Star | None = None,
    nbytes: int = 1000,
    failures: Failures | None = None,
    links: Conditions | None = None,
    every: int = 10 * SECOND,
    stalling: Stalling | None = None,
) -> ServerSimulation:
    """Ready to run; each client sees one example in one step, so its device's seconds are its round's."""
    fleet = fleet if isinstance(fleet, Fleet) else Fleet(list(fleet))
    fleet = replace(fleet, failures=failures) if failures else fleet
    clients = len(fleet.devices)
    star = star or Star(latency=0, server_up=inf, server_down=inf)
    graph = star.graph([device.down for device in fleet.devices], [device.up for device in fleet.devices])
    if links:
        links.apply(graph, clients, seed=1)
    ones = [1] * clients
    work = Workload(steps=ones, seen=ones, held=[10] * clients, flops=1.0, down=nbytes, up=nbytes)
    period = partial(round_trip, fleet=fleet, work=work, carrier=Carrier(Clock(), graph))
    aggregator = make(
        torch.zeros(SIZE), Roster(select or Uniform(seed=1), census=Census(dict.fromkeys(range(clients), 10), period))
    )
    executors = {
        "null": lambda: Null(LocalResult(torch.zeros(SIZE), 0.0, extra=torch.zeros(SIZE))),
        "inline": lambda: Inline(train),
        "stacked": lambda: Stacked(train, worth=64, row_bytes=4 * SIZE, synchronous=aggregator.synchronous),
    }
    world = Simulation(fleet, graph, executors[executor](), Recording(), stalling=stalling)
    return ServerSimulation(world, aggregator, work, Progress(until, every))


def changed(base: Mapping[str, Any], local: Mapping[str, Any] | None = None, **changes: Any) -> tuple[Any, Any]:
    """A scenario with other keys, and other ones under `local`: the experiment, and its simulation when it has run."""
    [arm] = scenario.read({**base, "local": {**base["local"], **(local or {})}, **changes})
    made = experiment.assemble(arm)
    simulation = made.simulation(Recording())
    simulation.run()
    return made, simulation
