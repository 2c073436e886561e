"""A crew of this process's own threads: nothing travels, and nothing is copied but what trains."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import local
from weakref import finalize

from fedsim.executors.crew import Crew
from fedsim.work import LocalResult, LocalTask, Train


@dataclass(eq=False)
class Flight:
    """See `crew.Flight`."""

    tasks: Sequence[LocalTask]
    answer: Future[list[LocalResult]]

    def landed(self) -> list[LocalResult]:
        """See `crew.Flight`."""
        return self.answer.result()


class Threads(Crew):
    """Threads take turns where Python itself works, so that they help where torch has much to do at each step."""

    def __init__(self, twin: Callable[[], Train], most: int, workers: int | None):
        """Each of so many `workers` (None: as many as cores) trains with a `twin` of its own, which has one core."""
        super().__init__(most)
        self.workers = workers or os.cpu_count() or 1
        self.pool, self.own = ThreadPoolExecutor(self.workers), Own(twin)
        finalize(self, self.pool.shutdown, wait=False, cancel_futures=True)

    @property
    def size(self) -> int:
        """See `Crew`."""
        return self.workers

    def send(self, tasks: Sequence[LocalTask]) -> Flight:
        """See `Crew`."""
        return Flight(tasks, self.pool.submit(self.own, tasks))


class Own(local):
    """What a thread trains with."""

    def __init__(self, twin: Callable[[], Train]):
        self.twin = twin
        self.train: Train | None = None

    def __call__(self, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """Their results, by this thread's own."""
        self.train = self.train or self.twin()
        return self.train(tasks)
