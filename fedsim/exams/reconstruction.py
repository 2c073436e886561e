"""How well a model gives examples back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.func import functional_call

from fedsim.data import Dataset


@dataclass(frozen=True)
class Reconstruction:
    """`reconstruction_error`: the mean squared error of a model's further scores from its input, of test examples."""

    def refuse(self, model: nn.Module, dataset: Dataset) -> None:
        """See `Exam`."""
        further = model(dataset.x_test[:1]).shape[1] - dataset.outputs
        if further != dataset.x_test[0].numel():
            raise ValueError(
                f"an example has {dataset.x_test[0].numel()} numbers, and the model {further} scores for them"
            )

    def grade(self, model: nn.Module, named: Mapping[str, Tensor], dataset: Dataset) -> dict[str, float]:
        """See `Exam`."""
        found = functional_call(model, dict(named), (dataset.x_test,))[:, dataset.outputs :]
        return {"reconstruction_error": float((found - dataset.x_test.flatten(1)).square().mean())}
