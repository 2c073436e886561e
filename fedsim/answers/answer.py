"""What an aggregator asks clients for, if it is no change of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from fedsim.work import LocalResult, LocalTask

if TYPE_CHECKING:
    from fedsim.workload import Workload


class Answers(Protocol):
    """A client's part of an algorithm: local steps and what follows them, or something in their place.

    What goes up, a result's `delta`, is flat and has the aggregator's `shape`. An answer is a function of its task.
    """

    trains: ClassVar[bool]
    """Whether it begins with the local steps of the scenario."""

    def work(self, work: Workload) -> Workload:
        """With its own work, in plain gradients, and the bytes of its message in place of a model's change."""
        ...

    def __call__(self, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """Their answers, in the same order."""
        ...
