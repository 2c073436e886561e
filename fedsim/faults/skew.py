"""Clocks that run fast or slow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from fedsim.faults.fault import Draw, OfClients
from fedsim.units import Probability


@dataclass(frozen=True, kw_only=True)
class Skew(OfClients):
    """Each of the clients by `chance`, once for all: its local training takes `factor` times as long.

    So does whatever it does by a clock of its own; what others foresee of it knows nothing of that.
    """

    anywhere: ClassVar[bool] = True
    factor: Annotated[float, Field(gt=0, le=1e6)]
    chance: Probability = 1.0

    def pace(self, client: int, draw: Draw) -> float:
        """See `Fault`."""
        return self.factor if self.concerns(client) and draw(client) < self.chance else 1.0
