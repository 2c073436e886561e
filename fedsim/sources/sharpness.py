"""Sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fedsim.gradients.norms import norms
from fedsim.losses import Loss
from fedsim.objectives import Step
from fedsim.sources.source import Found

TINY = 1e-12


@dataclass(frozen=True)
class Sharpness:
    """The gradient on the same batch at x + radius g / |g|, where the loss is highest nearby: SAM.

    Foret et al., Sharpness-Aware Minimization (ICLR 2021), Algorithm 1; in federated learning FedSAM (Qu et al., ICML
    2022; Caldarola et al., ECCV 2022). What a training reports as its loss is that where the client is.
    """

    radius: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05

    @property
    def effort(self) -> float:
        """See `Source`."""
        return 2.0 if self.radius else 1.0

    def gradients(self, step: Step, points: Tensor, loss: Loss | None) -> Found:
        """See `Source`."""
        slopes, losses = step.source(step.params, points, step.y, loss, step.offset)
        if not self.radius:
            return slopes, losses
        scale = self.radius / norms(slopes).clamp_min(TINY)
        higher = {
            name: param + scale.view(-1, *[1] * (param.dim() - 1)) * slopes[name]
            for name, param in step.params.items()
        }  # fmt: skip
        return step.source(higher, points, step.y, loss, step.offset)[0], losses
