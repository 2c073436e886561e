"""The sum of the clients' rows, each times its weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from fedsim_kernels.language import WIDE, constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

BLOCK = 1024


def weighted_sum(rows: Tensor, weights: Tensor) -> Tensor:
    """sum_k weights[k] rows[k] of weights (K,) and rows (K, P), in the rows' type: (P,).

    Accumulated in float64, one client after another, so that a run repeats to the bit. Differentiable.
    """
    return picked(kernel, reference, rows, WIDE)(rows, weights)


def reference(rows: Tensor, weights: Tensor) -> Tensor:
    """In plain torch."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for row, weight in zip(rows.double(), weights.double(), strict=True):
        total = total + weight * row
    return total.to(rows.dtype)


def kernel(rows: Tensor, weights: Tensor) -> Tensor:
    """One pass over the rows."""
    return _WeightedSum.apply(rows, weights)  # pyright: ignore[reportReturnType]


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weights)
        (clients, size), out = rows.shape, torch.empty_like(rows[0]) if len(rows) else rows.new_zeros(rows.shape[1])
        if out.numel():
            _sum[(pieces(size, BLOCK),)](rows, weights, out, clients, size, *rows.stride(), *weights.stride(),
                                         out.stride(0), BLOCK)  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (rows, weights), (grad,) = ctx.saved_tensors, grads
        of_rows, of_weights = ctx.needs_input_grad
        return ((weights[:, None] * grad).to(rows.dtype) if of_rows else None,
                (rows.double() @ grad.double()).to(weights.dtype) if of_weights else None)  # fmt: skip


@jit
def _sum(rows, weights, out, clients, size, row_step, step, weight_step, out_step, BLOCK: constexpr):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < size
    row = rows + places * step
    total = tl.zeros((BLOCK,), tl.float64)
    for client in range(clients):
        weight = tl.load(weights + client * weight_step).to(tl.float64)
        total += weight * tl.load(row, mask=inside, other=0.0).to(tl.float64)
        row += row_step
    tl.store(out + places * out_step, total.to(out.dtype.element_ty), mask=inside)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Great weights of either sign, so that sums in float32 would be wrong."""
    rows, weights = torch.randn(clients, size, generator=chance), torch.randn(clients, generator=chance)
    return {"rows": rows, "weights": 1000 * weights}


OP = Op(
    pick=weighted_sum,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda rows, weights: rows.nbytes + rows[0].nbytes + weights.nbytes,
    differentiable=("rows", "weights"),
)
