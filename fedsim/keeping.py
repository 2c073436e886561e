"""When checkpoints are written: now and then, and when somebody wants to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import current_thread, main_thread
from time import monotonic
from typing import Any

from fedsim.checkpoints import Checkpoint, Checkpoints
from fedsim.errors import Interrupted
from fedsim.progress import Progress

KEEPING_SHARE = 0.02
"""No more than this share of the time goes into checkpoints."""

LEAST = 10.0
"""Seconds from the start to the first, and from one to the next."""


@dataclass
class Keeper:
    """Looks on between events, where nothing is half done."""

    checkpoints: Checkpoints
    take: Callable[[], Checkpoint]
    """Of the run as it stands."""
    refusal: str | None = None
    """Why there can be none; None: there can, as far as is known."""
    stopping: bool = field(default=False, init=False)
    due: float = field(default_factory=lambda: monotonic() + LEAST, init=False)

    def look(self, progress: Progress) -> None:
        """Write one if it is time for it.

        Raises:
            Interrupted: if somebody wants to stop.
        """
        if self.stopping:
            self.stop()
        elif self.refusal is None and monotonic() >= self.due:
            self.write()

    def write(self) -> None:
        """Write one, and rest as long as its price asks for."""
        began = monotonic()
        try:
            self.checkpoints.write(self.take())
        except TypeError as error:  # of somebody's own class: no reason to end a run
            self.refusal = str(error)
        self.due = monotonic() + max(LEAST, (monotonic() - began) / KEEPING_SHARE)

    def stop(self) -> None:
        """Write a last one."""
        if self.refusal is None:
            self.write()
        raise Interrupted("stopped" if self.refusal is None else f"stopped; it has to begin anew, as {self.refusal}")

    @contextmanager
    def heeding(self) -> Iterator[None]:
        """Let Ctrl-C wait for the end of an event; a second one does not wait."""
        if current_thread() is not main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._asked)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _asked(self, number: int, frame: Any) -> None:
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
