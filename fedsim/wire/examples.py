"""Noise in the local steps, so that no single example can be told from what a client sends: DP-SGD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsim.wire.codec import generator
from fedsim.work import LocalTask


@dataclass(frozen=True)
class ExampleNoise:
    """Every example's gradient is shortened to `clip`, and each batch's sum gets noise of `multiplier` times that.

    Abadi et al., Deep Learning with Differential Privacy (CCS 2016), Algorithm 1.
    """

    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    multiplier: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    def add(self, grads: dict[str, Tensor], tasks: Sequence[LocalTask], step: int, batch: int, seed: int) -> None:
        """To the mean gradients (K, *shape) of these clients' batches; each client's noise has its own address."""
        deviation = self.multiplier * self.clip / batch
        draws = [generator(seed, "example noise", task.client, task.ordinal, step) for task in tasks]
        for name, grad in grads.items():
            noise = [torch.randn(grad.shape[1:], generator=draw) for draw in draws]
            grads[name] = grad + deviation * torch.stack(noise).to(grad.device)


def releases(steps: int, batch: int, held: int) -> int:
    """So many batches' sums about one example, of a training of shuffled batches, count as releases by themselves.

    An example is in one batch of every pass. Where batches do not divide the examples it can be twice in one, at the
    end of a pass and the beginning of the next: the sum then moves by two clips, which counts as four releases, as
    Gaussian noise composes by inverse squares.

    >>> releases(steps=10, batch=5, held=25), releases(steps=10, batch=4, held=25)
    (2, 4)
    """
    passes = -(-steps * batch // max(1, held))
    return passes if held % batch == 0 else passes // 2 * 4 + passes % 2
