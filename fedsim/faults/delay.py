"""Messages that are late, and so overtaken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from fedsim.faults.fault import Asked, Draw, OfWork
from fedsim.units import Duration


@dataclass(frozen=True, kw_only=True)
class Delay(OfWork):
    """Answers, and peers' messages, are held up for `by` before they travel.

    With a chance below 1 later ones overtake them, which is reordering.
    """

    on_the_way: ClassVar[bool] = True
    by: Annotated[Duration, Field(gt=0)]

    def delay(self, asked: Asked, draw: Draw) -> int:
        """See `Fault`."""
        return self.by if self.befalls(asked, draw) else 0
