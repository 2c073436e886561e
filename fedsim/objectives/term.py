"""A named part of what a local step minimises."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.gradients import Gradients
from fedsim.losses import Loss

Named = Mapping[str, Tensor]
"""Parameters, or changes of them: name -> (K, *shape)."""
Found = tuple[dict[str, Tensor], Tensor]
"""Gradients, name -> (K, *shape), and the losses of examples, (K, B)."""


@dataclass(frozen=True)
class Term:
    """So much of the mean of a loss over points. Points, labels and losses of K clients."""

    name: str
    points: Tensor
    """(K, B, *shape); or (K, 2 B, *shape), where the loss is of pairs."""
    y: Tensor
    loss: Loss | None = None
    """None: the one for such labels."""
    offset: Tensor | None = None
    """What is added to scores, (K, outputs); None: nothing."""
    weight: float = 1.0
    moves: Collection[str] | None = None
    """Parameters, by name, that have a gradient: the others' is 0; None: all."""

    def slopes(self, source: Gradients, params: Named) -> Found:
        """Gradients of its mean loss, without the weight, and the losses."""
        grads, losses = source(params, self.points, self.y, self.loss, self.offset)
        if self.moves is None:
            return grads, losses
        return {name: part if name in self.moves else torch.zeros_like(part) for name, part in grads.items()}, losses

    def curved(self, source: Gradients, params: Named, direction: Named) -> dict[str, Tensor]:
        """How these gradients change along a direction, H d."""
        return source.hvp(params, self.points, self.y, direction, self.loss, self.offset)


def slopes(source: Gradients, params: Named, terms: Sequence[Term]) -> Found:
    """Gradients of the sum of all terms, each by its weight, and the losses of the first."""
    each = [term.slopes(source, params) for term in terms]
    return total([grads for grads, _ in each], terms), each[0][1]


def curved(source: Gradients, params: Named, terms: Sequence[Term], direction: Named) -> dict[str, Tensor]:
    """How they change along a direction."""
    return total([term.curved(source, params, direction) for term in terms], terms)


def total(parts: Sequence[dict[str, Tensor]], terms: Sequence[Term]) -> dict[str, Tensor]:
    """The sum of what belongs to terms, by their weights; a lone one of weight 1 is left as it is."""
    if len(terms) == 1 and terms[0].weight == 1:
        return parts[0]
    weights = [term.weight for term in terms]
    return {name: torch.stack([w * part[name] for w, part in zip(weights, parts, strict=True)]).sum(0)
            for name in parts[0]}  # fmt: skip
