"""Two tasks of one network: to tell what an example is, and to give it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, ClassVar

from pydantic import Field

from fedsim.losses import CrossEntropy, Of, SquaredError
from fedsim.objectives.objective import Plain, Step
from fedsim.objectives.term import Term


@dataclass(frozen=True, kw_only=True)
class Together(Plain):
    """Cross-entropy of the first scores, and `weight` times the mean squared error of the further ones from the input.

    For a model that gives as many `further` scores as an example has numbers. What a client reports as its loss is the
    cross-entropy.
    """

    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0
    outputs: int
    """How many scores are of classes, given by the run."""
    shape: tuple[int, ...]
    """Of an example, given by the run."""
    classes: ClassVar[bool] = True
    losses: ClassVar[int] = 2

    @property
    def further(self) -> int:
        """See `Objective`: an example's numbers."""
        return prod(self.shape)

    def terms(self, step: Step) -> Sequence[Term]:
        """See `Objective`: `classes`, and `pictures`."""
        pictures = step.x.flatten(2)
        halves = 2 * self.weight / pictures.shape[2]
        return (
            Term("classes", step.x, step.y, Of(CrossEntropy(), 0, self.outputs)),
            Term("pictures", step.x, pictures, Of(SquaredError(), self.outputs), weight=halves),
        )
