"""Steps that are no longer than a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from fedsim.gradients.norms import norms
from fedsim.steps.rule import Proposal


@dataclass(frozen=True)
class Clip:
    """Steps of a 2-norm of at most `length`, over all parameters: what the optimizer makes of the gradient is clipped.

    To clip the gradient itself (Pascanu et al., ICML 2013) changes little of a step of Adam, which has no units.
    """

    length: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    effort: ClassVar[float] = 0.0
    classes: ClassVar[bool] = False

    def factors(self, proposal: Proposal) -> Tensor:
        """See `Rule`."""
        return (self.length / norms(proposal.change)).clamp_max(1.0)
