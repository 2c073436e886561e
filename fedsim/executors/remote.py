"""Local training away from the thread that simulates: on all cores of this machine, or on many machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated
from weakref import finalize

from pydantic import Field

from fedsim.executors.computing import compute, ready
from fedsim.executors.crew import Crew
from fedsim.executors.machines import Machines
from fedsim.executors.stacked import Stacked
from fedsim.executors.threads import Threads
from fedsim.units import Size
from fedsim.work import Deferred, Train

CALLS = 4
"""So many stacks for each worker at a time: what it trains, what waits for it, and what waits to be read in turn."""


class Remote(Stacked):
    """As `stacked`, but each stack is trained by whatever worker is free, while others are read.

    A result is a function of its task, so it is the same wherever it is computed, and again if a machine is lost.
    On a cluster a vector that many start from travels once to each machine, and is dropped with the last who does.
    """

    def __init__(
        self,
        train: Train,
        twin: Callable[[], Train],
        worth: int,
        row_bytes: int,
        synchronous: bool,
        budget: Annotated[Size, Field(gt=0)] = 64_000_000,
        ahead: bool | None = None,
        address: str | None = None,
        workers: Annotated[int, Field(ge=1)] | None = None,
    ):
        """So many `workers` (None: as many as cores) are threads of this process if no `address` is given; processes
        of a Ray cluster of its own if it is `local`; else all those of the cluster that is there."""
        super().__init__(train, worth, row_bytes, synchronous, budget, ahead)
        self.crew: Crew = (
            Threads(twin, self.batch, workers) if address is None else Machines(train, self.batch, address, workers)
        )
        self.train = self.crew

    def compute(self, wanted: Deferred) -> None:
        """Wait for this one. It and those that are due next are under way by then, as many as the workers can take."""
        self.batch = CALLS * self.crew.size * self.crew.most
        self.pending.pop(wanted, None)
        if not self.crew.flying(wanted.task) or len(self.crew.flights) <= self.batch - self.crew.most:
            self.launch([wanted, *self.company()])
        for each in (computed := compute(self.train, [wanted])):
            self.pending.pop(each, None)
        self.trained += len(computed)

    def launch(self, company: Sequence[Deferred]) -> None:
        """Have those trained that can be, and are not yet; who is forgotten meanwhile is so here too."""
        grounded = [each for each in company if ready(each) and not self.crew.flying(each.task)]
        self.crew.launch([each.task for each in grounded])
        for each in grounded:
            finalize(each, self.crew.flights.pop, id(each.task), None).atexit = False
