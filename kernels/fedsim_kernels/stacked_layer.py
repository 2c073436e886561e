"""A linear layer with ReLU for a stack of clients, each with weights of its own: small networks of a cohort."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

ROWS, COLUMNS, INNER = 16, 32, 128
"""Of a tile of results, and how much of their sums at a time; a product of matrices wants 16 of each."""


def stacked_layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """ReLU(x_k W_k^T + b_k) of inputs (K, B, n), weights (K, m, n) and biases (K, m): (K, B, m), in one pass.

    Differentiable: slopes that ReLU lets through, by torch's products.
    """
    return picked(kernel, reference, x)(x, weight, bias)


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """In plain torch."""
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT).relu_()


def kernel(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Product, bias and ReLU without a result in between."""
    return _StackedLayer.apply(x, weight, bias)  # pyright: ignore[reportReturnType]


class _StackedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        (clients, batch, inner), outer = x.shape, weight.shape[1]
        out = x.new_empty(clients, batch, outer)
        if out.numel():
            _layer[(clients, pieces(batch, ROWS), pieces(outer, COLUMNS))](
                x, weight, bias, out, batch, inner, outer, *x.stride(), *weight.stride(), *bias.stride(), *out.stride(),
                ROWS, COLUMNS, INNER)  # fmt: skip
        ctx.save_for_backward(x, weight, out)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (x, weight, out), [slope] = ctx.saved_tensors, slopes
        slope = torch.ops.aten.threshold_backward(slope, out, 0)
        return slope @ weight, slope.mT @ x, slope.sum(1)


@jit
def _layer(
    x, weight, bias, out, batch, inner, outer, x_client, x_row, x_step, weight_client, weight_row, weight_step,
    bias_client, bias_step, out_client, out_row, out_step, ROWS: constexpr, COLUMNS: constexpr, INNER: constexpr,
):  # fmt: skip
    client = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, inner, INNER):
        k = first + tl.arange(0, INNER)
        given = tl.load(x + client * x_client + rows[:, None] * x_row + k[None, :] * x_step,
                        mask=(rows < batch)[:, None] & (k < inner)[None, :], other=0.0)  # fmt: skip
        own = tl.load(weight + client * weight_client + columns[None, :] * weight_row + k[:, None] * weight_step,
                      mask=(columns < outer)[None, :] & (k < inner)[:, None], other=0.0)  # fmt: skip
        total += tl.dot(given, own, input_precision="ieee")
    total += tl.load(bias + client * bias_client + columns * bias_step, mask=columns < outer, other=0.0)[None, :]
    total = tl.where(total < 0, 0.0, total)  # so that no number stays none, as in torch
    tl.store(out + client * out_client + rows[:, None] * out_row + columns[None, :] * out_step, total,
             mask=(rows < batch)[:, None] & (columns < outer)[None, :])  # fmt: skip


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Clients with 17 examples of so many numbers, and 33 hidden units."""
    return {
        "x": torch.randn(clients, 17, size, generator=chance),
        "weight": max(1, size) ** -0.5 * torch.randn(clients, 33, size, generator=chance),
        "bias": torch.randn(clients, 33, generator=chance),
    }


OP = Op(
    pick=stacked_layer,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda x, weight, bias: x.nbytes + weight.nbytes + bias.nbytes + 4 * len(x) * x.shape[1] * weight.shape[1],
    differentiable=("x", "weight", "bias"),
    tolerance=2**-17,
    rowwise=("x", "weight", "bias"),
    timed=(256, 1024),
)
