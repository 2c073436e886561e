"""What has to come down before a client can start: a model, or the server's steps that it has missed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

CatchUp = Literal["cheapest", "replay", "fetch"]


@dataclass
class Downlink:
    """Knows which version every client has. All of them can make version 0 themselves, from the run's seed.

    Where steps are small (`step` bytes each), a client may `replay` those that it has missed, or `fetch` the model if
    it has missed more than one, whichever is the `cheapest`.
    """

    model: int
    """Bytes of a model, and of what else is sent along."""
    step: int | None = None
    """Bytes of what the server tells of a step; None: it always sends models."""
    catch_up: CatchUp = "cheapest"
    known: dict[int, int] = field(default_factory=dict, init=False)

    def nbytes(self, client: int, version: int) -> int:
        """What a client needs to have a version.

        >>> downlink = Downlink(model=1000, step=300)
        >>> [downlink.nbytes(client=0, version=version) for version in (0, 1, 3, 4)]
        [0, 300, 900, 1000]
        """
        if self.step is None:
            return self.model
        missed = version - self.known.get(client, 0)
        replayed = missed * self.step
        if self.catch_up == "cheapest":
            return min(replayed, self.model)
        return replayed if self.catch_up == "replay" or missed <= 1 else self.model

    def has(self, client: int, version: int) -> None:
        """It has come."""
        self.known[client] = version
