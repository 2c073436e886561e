"""Many tasks as one computation, and no sooner than one of them is read."""

from __future__ import annotations

from typing import Annotated, ClassVar
from weakref import WeakKeyDictionary

from pydantic import Field

from fedsim.executors.computing import compute
from fedsim.units import Size
from fedsim.work import Deferred, Kept, LocalTask, Train


class Stacked:
    """Nothing until a result is read; then that one and those needed next, as one computation.

    A pending result that nobody holds any more is forgotten, and so never computed. Whether a batch may also
    take company that has not arrived yet (`ahead`) pays for asynchronous algorithms, where nearly everything in
    flight is read in the end; for synchronous ones it would train the over-selected that come too late.
    """

    changing: ClassVar[tuple[str, ...]] = ("trained",)

    def __init__(
        self,
        train: Train,
        worth: int,
        row_bytes: int,
        synchronous: bool,
        budget: Annotated[Size, Field(gt=0)] = 64_000_000,
        ahead: bool | None = None,
    ):
        """Stacks as many clients of `row_bytes` each as are `worth` it, but no more than fit into `budget` bytes."""
        self.train = train
        self.batch = max(1, min(worth, budget // max(1, row_bytes)))
        self.ahead = not synchronous if ahead is None else ahead
        self.trained = 0
        self.pending: WeakKeyDictionary[Deferred, None] = WeakKeyDictionary()
        """In the order of asking."""

    def submit(self, task: LocalTask, due: int, after: Kept | None = None) -> Deferred:
        """Promise it."""
        deferred = Deferred(task, due, self, after=after)
        self.expect(deferred)
        return deferred

    def expect(self, pending: Deferred) -> None:
        """Remember that somebody will want it."""
        self.pending[pending] = None

    def compute(self, wanted: Deferred) -> None:
        """Train this one, together with those that are due next."""
        self.pending.pop(wanted, None)
        computed = compute(self.train, [wanted, *self.company()])
        for deferred in computed:
            self.pending.pop(deferred, None)
        self.trained += len(computed)

    def company(self) -> list[Deferred]:
        """Who else may come along, in the order of need: those who have arrived in client order, as steps read them."""
        if self.batch == 1:
            return []
        able = [deferred for deferred in self.pending if self.ahead or deferred.arrived]
        able.sort(key=lambda each: (not each.arrived, 0 if each.arrived else each.due, each.task.client))
        return able[: self.batch - 1]
