"""A model's parameters as one flat vector: where each lives in it, and how vectors are averaged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from fedsim_kernels.language import WIDE, launches
from fedsim_kernels.weighted_sum import weighted_sum as in_one_pass
from torch import Tensor, nn

PIECE = 2**15
"""Numbers that are added up at a time, so that their sum in float64 stays in a core's cache; measured."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each named parameter lives in the flat vector (P,).

    >>> layout = Layout.of(nn.Linear(3, 2))
    >>> layout.size, layout.names
    (8, ('weight', 'bias'))
    >>> {name: tuple(view.shape) for name, view in layout.unflatten(torch.zeros(5, 8)).items()}
    {'weight': (5, 2, 3), 'bias': (5, 2)}
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """The layout of a module's parameters, in the order in which it names them."""
        named = dict(module.named_parameters())
        return cls(tuple(named), tuple(tuple(parameter.shape) for parameter in named.values()))

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return sum(map(math.prod, self.shapes))

    def flatten(self, module: nn.Module) -> Tensor:
        """A copy of the module's parameters, (P,)."""
        return self.join(dict(module.named_parameters()))

    def join(self, named: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `unflatten`: named tensors (..., *shape) as a new tensor (..., P), without gradient."""
        parts = [named[name].detach() for name in self.names]
        lead = [part.shape[: part.dim() - len(shape)] for part, shape in zip(parts, self.shapes, strict=True)]
        return torch.cat([part.reshape(*axes, -1) for part, axes in zip(parts, lead, strict=True)], dim=-1)

    def unflatten(self, matrix: Tensor) -> dict[str, Tensor]:
        """Views (..., *shape) into a tensor (..., P); ValueError if its last axis is not P long."""
        if matrix.shape[-1] != self.size:
            raise ValueError(f"the model has {self.size} parameters, the vector has {matrix.shape[-1]}")
        parts = matrix.split([math.prod(shape) for shape in self.shapes], dim=-1)
        lead = matrix.shape[:-1]
        return {
            name: part.view((*lead, *shape)) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }


def weighted_sum(rows: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of weight times row, in the given order, accumulated in float64; in the rows' dtype.

    ValueError if there are no rows, or not as many weights.

    >>> weighted_sum([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], [0.25, 0.75])
    tensor([2.5000, 3.5000])
    """
    if not rows or len(rows) != len(weights):
        raise ValueError(f"expected as many weights as rows, and at least one: {len(weights)} and {len(rows)}")
    if not rows[0].numel():  # as where nothing is trained
        return rows[0]
    if launches(rows[0], WIDE):
        return in_one_pass(torch.stack(list(rows)), rows[0].new_tensor(weights, dtype=torch.float64))
    found = torch.empty_like(rows[0])
    for piece, *parts in zip(*(row.split(PIECE) for row in (found, *rows)), strict=True):
        total = torch.zeros_like(piece, dtype=torch.float64)
        for part, weight in zip(parts, weights, strict=True):
            total.add_(part, alpha=float(weight))
        piece.copy_(total)
    return found


def mean(rows: Sequence[Tensor]) -> Tensor:
    """Of vectors, as `weighted_sum`."""
    return weighted_sum(rows, [1 / len(rows)] * len(rows))


def total(rows: Sequence[Tensor]) -> Tensor:
    """The sum of vectors, as `weighted_sum`."""
    return weighted_sum(rows, [1.0] * len(rows))
