"""Each task alone, as soon as it is submitted."""

from __future__ import annotations

from typing import ClassVar

from fedsim.executors.computing import compute
from fedsim.work import Deferred, Kept, LocalTask, Train


class Inline:
    """The plainest meaning of local training, and so the oracle of the other executors."""

    changing: ClassVar[tuple[str, ...]] = ("trained",)

    def __init__(self, train: Train):
        self.train = train
        self.trained = 0

    def submit(self, task: LocalTask, due: int, after: Kept | None = None) -> Deferred:
        """Train now."""
        deferred = Deferred(task, due, self, after=after)
        self.expect(deferred)
        return deferred

    def expect(self, pending: Deferred) -> None:
        """Train it now."""
        self.compute(pending)

    def compute(self, wanted: Deferred) -> None:
        """Train this one."""
        compute(self.train, [wanted])
        self.trained += 1
