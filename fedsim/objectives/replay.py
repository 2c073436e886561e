"""Experience replay: what is new, and what is remembered of old tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.objectives.objective import Plain, Step
from fedsim.objectives.term import Term


@dataclass(frozen=True, kw_only=True)
class Replay(Plain):
    """`weight` times the loss of a batch of the present task, the rest of a batch from the client's own memory.

    Chaudhry et al., On Tiny Episodic Memories in Continual Learning (2019), as De Lange et al. (ICLR 2023) take it, who
    have 0.3 of a batch of 256 and a memory of 2000. Of each task a client remembers the first `memory` examples that it
    visits, a uniform draw as it visits them in random order, and replays as many as are new, drawn with replacement
    from all tasks but the present one. Who has no other task replays its batch: its loss is that of the batch. A poison
    spoils what is new, not what is remembered.
    """

    weight: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Of what is new."""
    memory: Annotated[int, Field(ge=1)] = 100
    """Examples of each task."""
    tasks: np.ndarray | None = None
    """Of all training examples, given by the run."""

    points: ClassVar[int] = 2
    losses: ClassVar[int] = 2
    discloses: ClassVar[str | None] = "the examples that it remembers"
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.tasks is None:
            raise ValueError("replay is for data that come in tasks, such as split_digits")

    @property
    def effort(self) -> float:
        """See `Objective`: two batches."""
        return 2.0

    def terms(self, step: Step) -> Sequence[Term]:
        """See `Objective`."""
        each = zip(step.rows, step.memory, step.draws("replay"), strict=True)
        x, y = step.look_up(torch.stack([self.remembered(*client) for client in each]))
        return (Term("new", step.x, step.y, offset=step.offset, weight=self.weight),
                Term("memory", x, y, offset=step.offset, weight=1 - self.weight))  # fmt: skip

    def remembered(self, rows: Tensor, memory: dict[str, Tensor], draw: torch.Generator) -> Tensor:
        """As many rows of old tasks as there are new ones (B,), which it writes down, while there is room, in turn."""
        assert self.tasks is not None
        present = f"task {self.tasks[int(rows[0])]}"
        own = memory.get(present, rows[:0])
        if len(own) < self.memory:
            memory[present] = rows.new_tensor(list(dict.fromkeys([*own.tolist(), *rows.tolist()]))[: self.memory])
        old = torch.cat([rows[:0], *[kept for name, kept in memory.items() if name != present]])
        return old[torch.randint(len(old), rows.shape, generator=draw).to(old.device)] if len(old) else rows
