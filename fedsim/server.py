"""A whole federation in virtual time: a server, its clients, and the calendar of who is there."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING, Any

from fedsim.cell import Cell
from fedsim.clock import CALENDAR, Steps
from fedsim.simulation import pass_time
from fedsim.units import FOREVER

if TYPE_CHECKING:
    from fedsim.wiring import Wire


@dataclass
class ServerSimulation(Cell):
    """Runs one server algorithm on a fleet, from the first moment to the last measurement."""

    wire: Wire | None = None
    """What its clients' changes go through."""

    def run(self) -> None:
        """From time 0 until a limit is reached; raises what `pass_time` does."""
        self.clock.start(self.calendar(), CALENDAR)
        pass_time(self.clock, self.progress, self.aggregator, lambda: (
            f"{len(self.here)} clients are here, {len(self.jobs)} at work"))  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """What a receipt says of it besides."""
        return {}

    def calendar(self) -> Steps:
        """Clients come and go. All who do so at one instant are told of together."""
        windows = [iter(self.fleet.windows(client)) for client in range(len(self.fleet.devices))]
        changes = [(start, client, end) for client, own in enumerate(windows) for start, end in islice(own, 1)]
        heapify(changes)
        while changes:
            time = changes[0][0]
            if time > self.clock.now:
                yield time - self.clock.now
            coming, going = [], []
            while changes and changes[0][0] == time:
                _, client, end = heappop(changes)
                (coming if end else going).append(client)
                following = [(end, 0)] if end else islice(windows[client], 1)
                for moment, until in following:
                    if moment < FOREVER:
                        heappush(changes, (moment, client, until))
            if going:
                self.go(going)
            if coming:
                self.come(coming)
