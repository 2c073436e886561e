"""Processes of this machine that run things side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

import torch


class Killed(Exception):
    """One of the processes was."""


Job = TypeVar("Job")
Found = TypeVar("Found")


def side_by_side(do: Callable[[Job], Found], jobs: Iterable[Job], workers: int) -> Iterator[tuple[Job, Found]]:
    """Each job and what came of it, as they are done, in so many processes of one thread each.

    If one fails, or nobody wants more, those that have not begun never do.

    Raises:
        Killed: if a process was.
    """
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        pending = {pool.submit(do, job): job for job in jobs}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        except BrokenProcessPool:
            raise Killed("one of its processes was killed; what is finished stays") from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
