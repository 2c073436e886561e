"""What is measured of a model whose weights are signs, beside how good it is: ReSTE's two indicators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedsim.gradients.single import Single
from fedsim.models.binary import at, binary_weights, estimating_error, gradient_variance


class Indicators:
    """`estimating_error`, and `gradient_variance` as a mean over batches, each with its own statistics.

    Args:
        model: what computes scores; without binary weights nothing is measured.
        batches: examples (B, *shape) and their labels.
    """

    def __init__(self, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.model, self.batches, self.version = model, batches, 0
        """The version is what the next model to be measured has."""

    def __call__(self, named: Mapping[str, Tensor]) -> dict[str, float]:
        """At these parameters, by name."""
        model = at(self.model, self.version)
        if not (binary := binary_weights(model)):
            return {}
        found = [gradient_variance(self._gradients(model, named, *batch)) for batch in self.batches]
        error = sum(estimating_error([named[name]], o) for name, o in binary.items())
        return {"estimating_error": error, "gradient_variance": sum(found) / len(found)}

    @staticmethod
    def _gradients(model: nn.Module, named: Mapping[str, Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
        """Of binary weights."""
        params = {name: part.unsqueeze(0) for name, part in named.items()}
        with torch.enable_grad():
            gradients, _ = Single(model)(params, x.unsqueeze(0), y.unsqueeze(0))
        return [gradients[name] for name in binary_weights(model)]
