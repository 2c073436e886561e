"""A server that dies, and comes back from what it has written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.faults.fault import Draw, Timed

if TYPE_CHECKING:
    from fedsim.cell import Cell


@dataclass(frozen=True, kw_only=True)
class Restart(Timed):
    """The server starts anew in no time, and all work under way is lost.

    It keeps its model, version and all that its algorithm remembers, answers that it has heard but not used included,
    as from a checkpoint of that instant; clients keep what they have. A round that waits for those who were at work
    goes on as if they had gone away. For a while without a server split it off (`partition`).
    """

    silencing: ClassVar[bool] = True

    def moments(self, draw: Draw) -> Sequence[int]:
        """See `Fault`."""
        return self.instants(draw)

    def strike(self, cell: Cell) -> None:
        """Everybody is told to stop, and then free."""
        here = sorted(cell.here)
        for client in sorted(cell.jobs):
            cell.jobs.pop(client).cut()
        cell.act(cell.aggregator.leave(here))
        cell.act(cell.aggregator.join([client for client in here if client not in cell.broken]))
