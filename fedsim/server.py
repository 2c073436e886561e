"""A whole federation in virtual time: a server, its clients, and the calendar of who is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from fedsim.cell import Cell
from fedsim.clock import CALENDAR, Clock, Steps
from fedsim.fleet import Fleet
from fedsim.simulation import pass_time
from fedsim.units import FOREVER

if TYPE_CHECKING:
    from fedsim.wiring import Wire


@dataclass
class ServerSimulation(Cell):
    """Runs one server algorithm on a fleet, from the first moment to the last measurement."""

    wire: Wire | None = None
    """What its clients' changes go through."""
    virtual: ClassVar[bool] = True
    """Whether its time can pass again."""
    changing: ClassVar[tuple[str, ...]] = (*Cell.changing, "wire")

    def run(self) -> None:
        """From time 0 until a limit is reached; raises what `pass_time` does."""
        self.clock.start(self.calendar(), CALENDAR)
        for moment, strike in self.world.faults.strikes(self):
            self.clock.call(moment, CALENDAR, strike)
        pass_time(self.clock, self.progress, self.aggregator, lambda: (
            f"{len(self.here)} clients are here, {len(self.jobs)} at work"))  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """What a receipt says of it besides."""
        return {}

    def calendar(self) -> Steps:
        """Clients come and go."""
        return presence(self.fleet, self.clock, self.come, self.go)


Told = Callable[[list[int]], object]
"""Of clients."""


def presence(fleet: Fleet, clock: Clock, come: Told, go: Told) -> Steps:
    """The steps of a fleet's clients coming and going. All who do so at one instant are told of together."""
    windows = [iter(fleet.windows(client)) for client in range(len(fleet.devices))]
    changes = [(start, client, end) for client, own in enumerate(windows) for start, end in islice(own, 1)]
    heapify(changes)
    while changes:
        time = changes[0][0]
        if time > clock.now:
            yield time - clock.now
        coming, going = [], []
        while changes and changes[0][0] == time:
            _, client, end = heappop(changes)
            (coming if end else going).append(client)
            following = [(end, 0)] if end else islice(windows[client], 1)
            for moment, until in following:
                if moment < FOREVER:
                    heappush(changes, (moment, client, until))
        if going:
            go(going)
        if coming:
            come(coming)
