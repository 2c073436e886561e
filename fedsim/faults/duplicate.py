"""Messages that come again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from fedsim.faults.fault import Asked, Draw, OfWork


@dataclass(frozen=True, kw_only=True)
class Duplicate(OfWork):
    """Answers are sent so many `times` more as soon as they have come.

    Copies travel like the first, at the same price. The server knows each message by a number, and refuses them
    (`unasked`). One that a link does not let through is not sent again.
    """

    times: Annotated[int, Field(ge=1, le=100)] = 1

    def copies(self, asked: Asked, draw: Draw) -> int:
        """See `Fault`."""
        return self.times if self.befalls(asked, draw) else 0
