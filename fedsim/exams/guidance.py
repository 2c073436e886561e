"""What a model that knows the class and one that does not are made to say together: adaptive projected guidance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Guidance:
    """Combines denoised predictions, with a class (D_c) and without one (D_u), (B, P) each, and what it remembers.

    Sadat et al., Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models (ICLR 2025),
    Algorithm 1, in predictions of the picture, not of noise: of d = D_c - D_u + momentum times the last d, no longer
    than `radius`, the part along D_c counts `eta` times,

        D = D_c + (scale - 1) (d_orthogonal + eta d_parallel)

    With eta 1, no radius and no momentum it is classifier-free guidance. The paper's momentum is negative.
    """

    scale: float
    radius: float = 0.0
    """Of each example's d; 0: any."""
    momentum: float = 0.0
    eta: float = 1.0

    def combine(self, conditional: Tensor, unconditional: Tensor, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """D (B, P), and the d before it is shortened, to be given as `last` at the next step of the same samples."""
        d = conditional - unconditional + (0 if last is None else self.momentum * last)
        short = d * (self.radius / d.norm(dim=-1, keepdim=True)).clamp_max(1.0) if self.radius else d
        unit = torch.nn.functional.normalize(conditional.double(), dim=-1)
        parallel = ((short.double() * unit).sum(-1, keepdim=True) * unit).to(short.dtype)
        return conditional + (self.scale - 1) * (short - parallel + self.eta * parallel), d
