"""How good a model is on examples that no client holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from fedsim.vector import Layout


class Evaluator:
    """Accuracy and mean cross-entropy of flat parameters (P,) on a test set; computed in chunks of fixed size."""

    def __init__(self, model: nn.Module, layout: Layout, x_test: Tensor, y_test: Tensor, chunk: int = 500) -> None:
        """`x_test` (n, *shape), `y_test` (n,) int64; ValueError if there is no test example."""
        if not len(y_test):
            raise ValueError("there are no test examples")
        self.model, self.layout, self.examples = model, layout, len(y_test)
        self.chunks = list(zip(x_test.split(chunk), y_test.split(chunk), strict=True))

    @torch.no_grad()
    def __call__(self, params: Tensor) -> dict[str, float]:
        """`accuracy` in [0, 1] and `loss`, summed in float64."""
        named = self.layout.unflatten(params)
        right, loss = 0, 0.0
        for x, y in self.chunks:
            scores = functional_call(self.model, named, (x,))
            right += int((scores.argmax(1) == y).sum())
            loss += float(cross_entropy(scores, y, reduction="none").double().sum())
        return {"accuracy": right / self.examples, "loss": loss / self.examples}
