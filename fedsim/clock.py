"""Virtual time is an integer of microseconds: a clock, moments, and processes that wait for them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import simpy

Steps = Generator["int | Moment", None, Any]
"""What a process does: it yields the microseconds that it waits, or a moment that it waits for."""

URGENT, FIRST_RANK = 0, 2
"""What happens at one instant is taken in order: starts and cuts, clients by id, then what concerns everybody."""
DELIVERY, SETTLEMENT, CALENDAR, DEADLINE = range(2**40, 2**40 + 4)


class Cut(Exception):
    """A client's work ended before its time; so many bytes of the transfer under way had passed."""

    def __init__(self, nbytes: int = 0):
        self.nbytes = nbytes


class Failure(Cut):
    """A client failed by itself (not because it went away), and comes back after a while."""


class LinkDown(Cut):
    """A link on the way of a transfer is down."""


class Moment(simpy.Event):
    """A point in virtual time. Equal times are taken in the order of `rank`, whatever the order of insertion."""

    env: Clock
    _ok = True

    def __init__(self, clock: Clock, rank: int):
        self.env, self.rank, self.callbacks = clock, rank, []

    def happen(self, delay: int = 0) -> Moment:
        """Let it happen so many microseconds from now."""
        self._value = None
        self.env.schedule(self, self.rank, delay)  # type: ignore[arg-type]  # SimPy compares priorities as integers
        return self


class Process(Moment):
    """Somebody's steps in virtual time: one moment, which happens again at the end of every wait.

    It is a SimPy process that can wait for nobody else, and so one event is enough for its whole life.
    """

    def __init__(self, clock: Clock, rank: int, steps: Steps):
        super().__init__(clock, rank)
        self.steps = steps
        self.callbacks.append(self._go_on)
        clock.schedule(self, URGENT)  # type: ignore[arg-type]

    def _go_on(self, _: simpy.Event) -> None:
        try:
            wait = self.steps.send(None)
        except StopIteration:
            return
        if isinstance(wait, Moment):
            wait.callbacks.append(self._go_on)
        else:
            self.callbacks = [self._go_on]
            self.env.schedule(self, self.rank, wait)  # type: ignore[arg-type]

    def cut(self, why: Cut | None = None) -> None:
        """End it before anything else happens: `Cut` is raised where it waits. It may not wait again."""
        self.env.call(0, URGENT, lambda: self._end(why or Cut()))

    def _end(self, why: Cut) -> None:
        with suppress(StopIteration):
            self.steps.throw(why)
            raise RuntimeError("a process that was cut waits again")


class Clock(simpy.Environment):
    """SimPy's environment, in microseconds."""

    @property
    def now(self) -> int:
        """Microseconds since the start."""
        return self._now  # type: ignore[return-value]  # whole numbers go in, so whole numbers come out

    def call(self, delay: int, rank: int, action: Callable[[], None]) -> None:
        """Do something so many microseconds from now."""
        Moment(self, rank).happen(delay).callbacks.append(lambda _: action())

    def start(self, steps: Steps, rank: int) -> Process:
        """Let somebody's steps begin as soon as what happens just now is over."""
        return Process(self, rank, steps)


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Look for cyclic garbage less often: a run makes next to none, and a large fleet is much to look through."""
    often = gc.get_threshold()
    gc.set_threshold(20 * often[0], *often[1:])
    try:
        yield
    finally:
        gc.set_threshold(*often)
