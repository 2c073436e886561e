"""No training at all: the timeline alone."""

from __future__ import annotations

from fedsim.errors import RunFailed
from fedsim.work import Deferred, Kept, LocalResult, LocalTask


class Null:
    """Answers every task with the same empty result, so that time, traffic and staleness can be had for nothing."""

    def __init__(self, nothing: LocalResult):
        self.nothing = nothing
        self.trained = 0

    def submit(self, task: LocalTask, due: int, after: Kept | None = None) -> Deferred:
        """A result that was never computed."""
        return Deferred(task, due, self, self.nothing)

    def expect(self, pending: Deferred) -> None:
        """It is there."""
        pending.value = self.nothing

    def compute(self, wanted: Deferred) -> None:
        """Never needed: every result is there at once."""
        raise RunFailed(f"the null executor was asked to train {wanted!r}")
