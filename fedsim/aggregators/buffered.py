"""Asynchronous steps on so many updates, however stale."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, field

from fedsim.aggregators.aggregator import Aggregator, Count, Many
from fedsim.work import Update


@dataclass
class Buffered(Aggregator, ABC):
    """Keeps `concurrency` clients at work and steps whenever `goal` updates have arrived; a freed slot is refilled.

    With `wait`, nobody is asked from the first arrival until the step, so that those heard start from the new model; if
    nobody is at work any more, the step is taken with what is there.
    """

    concurrency: Many = 10
    goal: Count = 10
    wait: bool = False
    buffer: list[Update] = field(default_factory=list, init=False)

    @property
    def expected(self) -> float | None:
        """The goal, unless somebody is kept out of it."""
        return self.goal if self.defence is None else None

    @property
    def asked(self) -> int:
        """The goal."""
        return self.goal

    def take(self, update: Update) -> bool:
        """Into the buffer; a full buffer is a step."""
        self.buffer.append(update)
        if len(self.buffer) == self.goal:
            self.flush()
        return True

    def flush(self) -> None:
        """Step and empty the buffer."""
        buffer, self.buffer = self.buffer, []
        self.step(buffer)

    def refill(self) -> list[int]:
        """Fill the free slots; where those heard wait, none before the step."""
        if self.wait and self.buffer:
            if self.roster.busy:
                return []
            self.flush()
        return self.top_up(self.concurrency)
