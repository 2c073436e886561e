"""Clients that die at their work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedsim.clock import Failure
from fedsim.faults.fault import Draw, OfWork, Phase
from fedsim.fleet import Fate

if TYPE_CHECKING:
    from fedsim.cell import Cell


@dataclass(frozen=True, kw_only=True)
class Kill(OfWork):
    """Clients fail in a `phase`, by chance somewhere in it; after `drop.recovery` they can be asked again.

    At a time it befalls those who are in that phase just then.
    """

    silencing: ClassVar[bool] = True
    phase: Phase = "train"

    def fate(self, client: int, number: int, phase: Phase, draw: Draw) -> Fate | None:
        """See `Fault`."""
        if phase != self.phase or not self.concerns(client) or draw(client, number) >= (self.chance or 0.0):
            return None
        return Fate("during" if self.phase == "train" else self.phase, draw(client, number, "fraction"))

    def moments(self, draw: Draw) -> Sequence[int]:
        """See `Fault`."""
        return sorted(set(self.at or ()))

    def strike(self, cell: Cell) -> None:
        """Whoever is in the phase fails."""
        for client in sorted(cell.jobs):
            if self.concerns(client) and cell.phases[client] == self.phase:
                cell.jobs[client].cut(Failure())
