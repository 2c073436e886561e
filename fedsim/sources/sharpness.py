"""Sharpness-aware minimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from fedsim.gradients.norms import norms
from fedsim.objectives import Step
from fedsim.objectives.term import Found, Named, Term, slopes

TINY = 1e-12


@dataclass(frozen=True)
class Sharpness:
    """The gradient on the same batch at x + radius g / |g|, where the loss is highest nearby: SAM.

    Foret et al., Sharpness-Aware Minimization (ICLR 2021), Algorithm 1; in federated learning FedSAM (Qu et al., ICML
    2022; Caldarola et al., ECCV 2022). What a training reports as its loss is that where the client is.
    """

    radius: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05

    remembers: ClassVar[bool] = False

    def effort(self, terms: int) -> float:
        """See `Source`."""
        return 2.0 if self.radius else 1.0

    def gradients(self, step: Step, terms: Sequence[Term]) -> Found:
        """See `Source`."""
        here, losses = slopes(step.source, step.params, terms)
        if not self.radius:
            return here, losses
        return slopes(step.source, higher(step.params, here, self.radius), terms)[0], losses


def higher(params: Named, gradient: Named, radius: float) -> dict[str, Tensor]:
    """x + radius g / |g|, each client's own."""
    scale = radius / norms(gradient).clamp_min(TINY)
    return {name: param + scale.view(-1, *[1] * (param.dim() - 1)) * gradient[name] for name, param in params.items()}
