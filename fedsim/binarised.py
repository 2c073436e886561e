"""What is measured of a model whose weights are signs, beside how good it is: ReSTE's two indicators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedsim.gradients.single import Single
from fedsim.models.binary import binary_weights, estimating_error, gradient_variance


class Indicators:
    """`estimating_error`, and `gradient_variance` as a mean over batches, each with its own statistics.

    Args:
        model: what computes scores; without binary weights nothing is measured.
        batches: examples (B, *shape) and their labels.
    """

    def __init__(self, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.binary, self.batches = binary_weights(model), batches
        self.source = Single(model)

    def __call__(self, named: Mapping[str, Tensor]) -> dict[str, float]:
        """At these parameters, by name."""
        if not self.binary:
            return {}
        found = [self._variance(named, *batch) for batch in self.batches]
        error = sum(estimating_error([named[name]], o) for name, o in self.binary.items())
        return {"estimating_error": error, "gradient_variance": sum(found) / len(found)}

    def _variance(self, named: Mapping[str, Tensor], x: Tensor, y: Tensor) -> float:
        params = {name: part.unsqueeze(0) for name, part in named.items()}
        with torch.enable_grad():
            gradients, _ = self.source(params, x.unsqueeze(0), y.unsqueeze(0))
        return gradient_variance([gradients[name] for name in self.binary])
