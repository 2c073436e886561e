"""Test-time adaptation: from a version on nobody knows labels, and models become surer of what they see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from fedsim.losses import Entropy
from fedsim.objectives.objective import Plain, Step
from fedsim.objectives.term import Term
from fedsim.work import LocalTask


@dataclass(frozen=True, kw_only=True)
class Tent(Plain):
    """The loss of the examples before version `since`; from then on the entropy of the chances, without their labels.

    Tent (Wang et al., ICLR 2021): it moves scales and shifts of normalisation layers alone, which stay with the client
    (`personal: norms`), and nothing else. It predicts before it learns, which the probe `online` shows. With the source
    `sar` it is SAR. An optimizer begins afresh at each training, where the papers' never does.
    """

    since: Annotated[int, Field(ge=0)]
    classes: ClassVar[bool] = True

    def phase(self, task: LocalTask) -> bool:
        """See `Objective`: whether it adapts."""
        return task.version >= self.since

    def terms(self, step: Step) -> Sequence[Term]:
        """See `Objective`."""
        if not self.phase(step.tasks[0]):
            return super().terms(step)
        everybody = torch.ones_like(step.y)
        return (Term("entropy", step.x, everybody, Entropy(), step.offset, moves=step.personal),)
