"""Real time, in the microseconds of a simulation."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic_ns, sleep, time_ns


@dataclass
class Wall:
    """A clock on the wall, and how long to look away from it."""

    pause: float = 0.1
    """Seconds."""
    zero: int = field(default_factory=monotonic_ns, init=False)
    epoch: int = field(default=0, init=False)
    """What the calendar says at time 0, in microseconds since 1970."""

    def start(self) -> None:
        """This is time 0."""
        self.zero, self.epoch = monotonic_ns(), time_ns() // 1000

    @property
    def now(self) -> int:
        """Microseconds since time 0."""
        return (monotonic_ns() - self.zero) // 1000

    def rest(self) -> None:
        """Look away."""
        sleep(self.pause)
