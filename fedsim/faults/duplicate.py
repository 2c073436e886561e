"""Messages that come again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from fedsim.faults.fault import Asked, Draw, OfWork


@dataclass(frozen=True, kw_only=True)
class Duplicate(OfWork):
    """Answers, and peers' messages, are sent so many `times` more as soon as they have come.

    Copies travel like the first, at the same price. Who gets them knows each message by a number, and refuses them
    (`unasked`). One that a link does not let through is not sent again.
    """

    on_the_way: ClassVar[bool] = True
    times: Annotated[int, Field(ge=1, le=100)] = 1

    def copies(self, asked: Asked, draw: Draw) -> int:
        """See `Fault`."""
        return self.times if self.befalls(asked, draw) else 0
