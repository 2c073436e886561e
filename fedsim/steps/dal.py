"""Learning rates by how curved the loss is along its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsim.gradients.norms import norms
from fedsim.objectives.term import curved
from fedsim.optimizers import Recipe
from fedsim.steps.rule import Proposal

TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class Dal:
    """Drift adjusted learning rates, DAL-p: lr = min(2 / |H g'|^power, most), with g' = g / |g| and H of one batch.

    Rosca et al., On a Continuous Time Model of Gradient Descent Dynamics and Instability in Deep Learning (2302.01952);
    `most` is its public code's 5. In place of the optimizer's rate, which has to be plain SGD's: lr is of plain
    gradients, and this a factor lr / lr_SGD of the step. A `schedule` multiplies it. With `power: 0` the formula says
    2, but the code takes the optimizer's own rate, and so does this. H is of the loss alone, without corrections of
    drift.
    """

    power: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """p: the smaller, the faster and the less stable."""
    most: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    optimizer: Recipe
    """The clients', given by the run."""
    effort: ClassVar[float] = 8 / 3
    classes: ClassVar[bool] = False

    def __post_init__(self) -> None:
        plain = isinstance(self.optimizer, Recipe) and self.optimizer.momentum == 0
        if not plain or self.optimizer.arguments.get("weight_decay"):
            raise ValueError("its rates are those of plain gradients: take optimizer sgd, without momentum and decay")

    def factors(self, proposal: Proposal) -> Tensor:
        """See `Rule`."""
        gradient, step = proposal.gradient, proposal.step
        if not self.power:
            return torch.ones(len(step.tasks))
        lengths = norms(gradient).clamp_min(TINY)
        unit = {name: part / lengths.view(-1, *[1] * (part.dim() - 1)) for name, part in gradient.items()}
        curvature = norms(curved(step.source, proposal.before, proposal.terms, unit))
        return rates(curvature, self.power, self.most) / self.optimizer.arguments["lr"]


def rates(curvatures: Tensor, power: float, most: float) -> Tensor:
    """DAL-p's learning rates, from |H g'|.

    >>> rates(torch.tensor([4.0, 0.0]), power=1.0, most=5.0)
    tensor([0.5000, 5.0000])
    """
    return (2 / curvatures**power).clamp_max(most)
