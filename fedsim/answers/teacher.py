"""A trained model that judges images, with the statistics that its own examples have in its BatchNorms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.models.normalisation import Statistics, estimated, fixed, norms

CHUNK = 500
"""Examples whose statistics are taken at once."""


@dataclass(frozen=True)
class Teacher:
    """Frozen: parameters and statistics stay as they are, whatever it looks at."""

    model: nn.Module
    named: Mapping[str, Tensor]
    statistics: Sequence[Statistics]
    """Of the inputs of each BatchNorm."""

    @classmethod
    def of(cls, model: nn.Module, named: Mapping[str, Tensor], x: Tensor) -> Teacher:
        """With the statistics of the examples (B, *shape); a BatchNorm of this house keeps no averages (eval mode)."""
        with torch.no_grad():
            return cls(model, named, estimated(model, named, x.split(CHUNK)))

    def scores(self, x: Tensor) -> Tensor:
        """(B, classes)."""
        with fixed([self.model], self.statistics):
            return functional_call(self.model, dict(self.named), (x,))

    def judged(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores, and R_l = |var_l(x) - var_l|_2 + |mean_l(x) - mean_l|_2 for each BatchNorm, biased variances of x."""
        with self._inputs() as inputs:
            scores = self.scores(x)
        return scores, [_apart(*pair) for pair in zip(inputs, self.statistics, strict=True)]

    @contextmanager
    def _inputs(self) -> Iterator[list[Tensor]]:
        """What comes into each BatchNorm inside, in order."""
        seen: list[Tensor] = []
        hooks = [layer.register_forward_pre_hook(lambda _, given: seen.append(given[0])) for layer in norms(self.model)]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()


def _apart(x: Tensor, statistics: Statistics) -> Tensor:
    axes = [axis for axis in range(x.dim()) if axis != 1]
    own, (mean, variance) = torch.var_mean(x, dim=axes, correction=0), statistics
    return torch.linalg.vector_norm(own[0] - variance) + torch.linalg.vector_norm(own[1] - mean)
