"""How a transformer does by full and by sparse attention, and how sparse its full attention is by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.data import Dataset
from fedsim.models.transformer import LOOKS, MODES, Transformer
from fedsim.objectives.sparse_attention import NextCharacters, lessons

CHUNK = 64
"""Examples computed at once."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """The loss of every next character by either attention, and the weight that sparse attention drops.

    `full_loss`, `sparse_loss` and `attention_gap`, sparse minus full; where full attention is passed on, as means over
    layers, heads and queries, `dropped_mass`, `entropy` of its weights in nats, and `alignment`. On `examples` of the
    test set, evenly spread.
    """

    examples: Annotated[int, Field(ge=1)] = 512

    def refuse(self, model: nn.Module, dataset: Dataset) -> None:
        """See `Exam`."""
        if not isinstance(model, Transformer):
            raise ValueError("only a transformer has sparse attention")

    def grade(self, model: nn.Module, named: Mapping[str, Tensor], dataset: Dataset) -> dict[str, float]:
        """See `Exam`."""
        count = min(self.examples, len(dataset.x_test))
        places = np.linspace(0, len(dataset.x_test) - 1, count).astype(int)
        x, y = dataset.x_test[places], dataset.y_test[places]
        (full, looks), (sparse, _) = (self._by(mode, model, named, x, y) for mode in range(len(MODES)))
        told = {"full_loss": full, "sparse_loss": sparse, "attention_gap": sparse - full}
        return told | dict(zip(LOOKS, looks, strict=True))

    def _by(
        self, mode: int, model: nn.Module, named: Mapping[str, Tensor], x: Tensor, y: Tensor
    ) -> tuple[float, list[float]]:
        """The mean loss where this mode is passed on, and the mean `LOOKS`."""
        points, labels = lessons(x, y, y.new_tensor(mode))
        losses, looks = [], []
        for some, following in zip(points.split(CHUNK), labels.split(CHUNK), strict=True):
            scores = functional_call(model, dict(named), (some,))
            losses.append(NextCharacters(0.0).each(scores, following))
            looks.append(scores[:, -len(LOOKS) :])
        return float(torch.cat(losses).double().mean()), torch.cat(looks).double().mean(0).tolist()
