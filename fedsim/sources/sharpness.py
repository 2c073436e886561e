"""Sharpness-aware minimisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from fedsim.gradients.norms import norms
from fedsim.objectives import Step
from fedsim.objectives.term import Found, Term, slopes

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
        scale = self.radius / norms(here).clamp_min(TINY)
        higher = {
            name: param + scale.view(-1, *[1] * (param.dim() - 1)) * here[name]
            for name, param in step.params.items()
        }  # fmt: skip
        return slopes(step.source, higher, terms)[0], losses
