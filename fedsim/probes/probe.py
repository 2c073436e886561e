"""What a probe inside local trainings answers to, and what it has seen of a stack of clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from fedsim.objectives import Step
from fedsim.work import LocalTask


class Probe(Protocol):
    """Looks at K clients while they train, and changes nothing. It sees of a stack what it sees of each client."""

    @property
    def columns(self) -> Sequence[str]:
        """What its numbers are called."""
        ...

    @property
    def lacks(self) -> str | None:
        """Why it cannot look at such data; None: it can."""
        ...

    def effort(self, steps: int, batch: int) -> float:
        """What it costs a training of so many steps on batches of so many, in examples that are trained on."""
        ...

    def before(self, step: Step) -> Tensor | None:
        """Numbers (K, columns) before a step is taken; None: it does not look."""
        ...

    def after(self, step: Step) -> Tensor | None:
        """The same when it has been taken: `step.params` are what it has made of the models."""
        ...


class Sightings:
    """What a probe, if there is one, has seen of a stack's steps."""

    def __init__(self, probe: Probe | None) -> None:
        self.probe = probe
        self.rows: list[tuple[int, np.ndarray]] = []

    def before(self, step: Step) -> None:
        """Let it look: so many steps have been taken."""
        if self.probe is not None:
            self._note(step.number, self.probe.before(step))

    def after(self, step: Step) -> None:
        """The same, one step later."""
        if self.probe is not None:
            self._note(step.number + 1, self.probe.after(step))

    def _note(self, taken: int, seen: Tensor | None) -> None:
        if seen is not None:
            self.rows.append((taken, seen.double().cpu().numpy()))

    def table(self, place: int, task: LocalTask) -> dict[str, np.ndarray] | None:
        """Of the client at this place of the stack, by column, with the number of steps that it had taken."""
        if self.probe is None:
            return None
        own = [(taken, seen[place]) for taken, seen in self.rows if taken <= task.steps and place < len(seen)]
        numbers = np.array([seen for _, seen in own]).reshape(len(own), len(self.probe.columns))
        steps = np.array([taken for taken, _ in own], dtype=int)
        return {"step": steps, **dict(zip(self.probe.columns, numbers.T, strict=True))}
