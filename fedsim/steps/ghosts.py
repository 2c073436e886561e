"""Steps that stay where the softmax of what they do to the scores has a Taylor series."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsim.steps.rule import Proposal


def radius(changes: Tensor) -> Tensor:
    """rho_a = pi / Delta_a, (K,), of how scores change along a direction, (K, B, outputs); inf where all do alike.

    Delta_a is the widest spread of any example's changes. Paper: equation 14. Twice the direction, half the radius.

    >>> radius(torch.tensor([[[0.0, 1.0], [1.0, -1.0]]])) * 2 / pi
    tensor([1.])
    """
    return pi / (changes.amax(2) - changes.amin(2)).amax(1)


@dataclass(frozen=True)
class Ghosts:
    """Steps no longer than `target` times the radius rho_a within which the batch's softmax cannot meet a pole.

    Ghosts of Softmax (2603.13552), sections 4 to 6. Of the step p that the optimizer proposes, with momentum and decay,
    scores change by a = J p, and r, its length in radii, is the widest spread of a over pi. `cap` takes min(1, target /
    r) p, with target 1 Proposition 5.2, which has no parameter. `set` takes target / r p, so that the learning rate
    does not matter: on the paper's ResNet-18 0.5 is safe, 1 best, 4 breaks. A step that moves no score is taken whole.
    Spreads are those of the batch, by the model as it trains. The bound is sufficient, not necessary. In the public
    code `RhoScaledAdam` looks at spreads of the scores themselves, and the ResNet's controller ignores its target.
    """

    mode: Literal["cap", "set"] = "cap"
    target: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """r, the length of a step in radii."""
    effort: ClassVar[float] = 1.0
    classes: ClassVar[bool] = True

    def factors(self, proposal: Proposal) -> Tensor:
        """See `Rule`."""
        source, before, change = proposal.step.source, proposal.before, proposal.change
        each = [radius(source.jvp(before, term.points, change)) for term in proposal.terms]
        factors = self.target * torch.stack(each).amin(0)
        if self.mode == "cap":
            return factors.clamp_max(1.0)
        return factors.where(factors.isfinite(), torch.ones_like(factors))
