"""How steep the loss rises around a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.data import Dataset
from fedsim.gradients.single import Single
from fedsim.sources.sharpness import higher


@dataclass(frozen=True)
class Steepness:
    """`sharpness`: the training loss at x + radius g / |g| less that at x, on the same examples.

    What SAM (Foret et al., ICLR 2021) keeps low, to first order: equation 2. On evenly spread `examples` at once.
    """

    radius: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    examples: Annotated[int, Field(ge=1)] = 1000

    def refuse(self, model: nn.Module, dataset: Dataset) -> None:
        """See `Exam`: it looks at any; where a model gives further scores, at the loss of all of them."""
        if model(dataset.x_test[:1]).shape[1] != dataset.outputs:
            raise ValueError("sharpness is of a loss of all scores, but this model gives further ones")

    @torch.enable_grad()
    def grade(self, model: nn.Module, named: Mapping[str, Tensor], dataset: Dataset) -> dict[str, float]:
        """See `Exam`."""
        rows = torch.linspace(0, len(dataset) - 1, min(self.examples, len(dataset))).long()
        source, batch = Single(model), (dataset.x[rows].unsqueeze(0), dataset.y[rows].unsqueeze(0))
        params = {name: part.unsqueeze(0) for name, part in named.items()}
        grads, here = source(params, *batch)
        _, there = source(higher(params, grads, self.radius), *batch)
        return {"sharpness": float(there.double().mean() - here.double().mean())}
