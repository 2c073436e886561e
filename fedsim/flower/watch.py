"""Python's `time` by a virtual watch, for one thread and for as long as an app runs.

While `worn` lasts, `time.sleep`, `time`, `monotonic` and `perf_counter` are replaced. Each asks whose thread it is in:
a thread that wears a watch lives by it, all others have the real functions as before. What has taken a function out of
`time` before that (`from time import sleep`) keeps the real one; apps are imported meanwhile, so theirs are virtual.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from fedsim.flower.internals import SLEEPERS
from fedsim.units import SECOND

EPOCH = 1_767_225_600
"""`time.time()` at virtual time 0: the first of January 2026."""


class Watch(Protocol):
    """What tells a thread's time."""

    @property
    def now(self) -> int:
        """Microseconds of virtual time."""
        ...

    def sleep(self, ticks: int) -> None:
        """Let so many of them pass."""
        ...


_thread = threading.local()


def worn_here() -> Watch | None:
    """The watch of this thread; None: it lives in real time."""
    return getattr(_thread, "watch", None)


def _sleeping(real: Callable[[float], None]) -> Callable[[float], None]:
    def sleep(seconds: float) -> None:
        watch = worn_here()
        if watch is None:
            return real(seconds)
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        return watch.sleep(round(seconds * SECOND))

    return sleep


def _reading(real: Callable[[], float], start: float) -> Callable[[], float]:
    def read() -> float:
        watch = worn_here()
        return real() if watch is None else start + watch.now / SECOND

    return read


@contextmanager
def worn(watch: Watch) -> Iterator[None]:
    """This thread lives by the watch meanwhile; in place of another one, if it has one on."""
    before = worn_here()
    _thread.watch = watch
    try:
        if before is None:
            with _replaced():
                yield
        else:
            yield
    finally:
        _thread.watch = before


@contextmanager
def _replaced() -> Iterator[None]:
    sleep = _sleeping(time.sleep)
    places = [(time, "sleep", sleep), *((module, "sleep", sleep) for module in SLEEPERS)]
    places += [(time, "time", _reading(time.time, EPOCH))]
    places += [(time, name, _reading(getattr(time, name), 0)) for name in ("monotonic", "perf_counter")]
    before = [(module, name, getattr(module, name)) for module, name, _ in places]
    try:
        for module, name, function in places:
            setattr(module, name, function)
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)
