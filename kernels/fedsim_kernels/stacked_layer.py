"""A linear layer for a stack of clients, each with weights of its own, and its ReLU: small networks of a cohort."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor
from torch.autograd.function import once_differentiable

from fedsim_kernels import stacked_gradients, stacked_slopes
from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op, layer_sizes
from fedsim_kernels.tiles import put, tile

ROWS, COLUMNS, INNER = 16, 64, 32
"""Of a tile of results, and how much of their sums at a time; a product of matrices wants 16 of each."""


def stacked_layer(x: Tensor, weight: Tensor, bias: Tensor, activated: bool = True) -> Tensor:
    """ReLU(x_k W_k^T + b_k) of inputs (K, B, n), weights (K, m, n) and biases (K, m): (K, B, m), in one pass.

    Differentiable, once. The last layer of a network is not `activated`: these are scores, and their examples lie next
    to each other in memory, as losses read them.
    """
    return picked(kernel, reference, x)(x, weight, bias, activated)


def reference(x: Tensor, weight: Tensor, bias: Tensor, activated: bool = True) -> Tensor:
    """In plain torch."""
    if not activated:
        return torch.baddbmm(bias.unsqueeze(2), weight, x.mT).mT
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT).relu_()


def kernel(x: Tensor, weight: Tensor, bias: Tensor, activated: bool = True) -> Tensor:
    """Product, bias and ReLU without a result in between; backward by `stacked_slopes` and `stacked_gradients`."""
    return _StackedLayer.apply(x, weight, bias, activated)  # pyright: ignore[reportReturnType]


class _StackedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, activated: bool) -> Tensor:
        (clients, batch, inner), outer = x.shape, weight.shape[1]
        out = x.new_empty(clients, batch, outer) if activated else x.new_empty(clients, outer, batch).mT
        if out.numel():
            _layer[(clients, pieces(batch, ROWS), pieces(outer, COLUMNS))](
                x, weight, bias, out, batch, inner, outer, *x.stride(), *weight.stride(), *bias.stride(), *out.stride(),
                activated, ROWS, COLUMNS, INNER)  # fmt: skip
        ctx.save_for_backward(x, weight, out if activated else None)
        return out

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *slopes: Tensor
    ) -> tuple[Tensor | None, ...]:
        (x, weight, gate), [slope] = ctx.saved_tensors, slopes
        if gate is not None:
            slope = torch.ops.aten.threshold_backward(slope, gate, 0)
        return stacked_slopes.kernel(slope, weight), *stacked_gradients.kernel(slope, x), None


@jit
def _layer(
    x, weight, bias, out, batch, inner, outer, x_client, x_row, x_step, weight_client, weight_row, weight_step,
    bias_client, bias_step, out_client, out_row, out_step,
    ACTIVATED: constexpr, ROWS: constexpr, COLUMNS: constexpr, INNER: constexpr,
):  # fmt: skip
    client = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, inner, INNER):
        k = first + tl.arange(0, INNER)
        given = tile(x + client * x_client, rows, k, batch, inner, x_row, x_step)
        own = tile(weight + client * weight_client, k, columns, inner, outer, weight_step, weight_row)
        total += tl.dot(given, own, input_precision="ieee")
    total += tl.load(bias + client * bias_client + columns * bias_step, mask=columns < outer, other=0.0)[None, :]
    if ACTIVATED:
        total = tl.where(total < 0, 0.0, total)  # so that no number stays none, as in torch
    put(out + client * out_client, total, rows, columns, batch, outer, out_row, out_step)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Clients with a few examples of so many numbers, and hidden units."""
    batch, units = layer_sizes(size)
    return {
        "x": torch.randn(clients, batch, size, generator=chance),
        "weight": max(1, size) ** -0.5 * torch.randn(clients, units, size, generator=chance),
        "bias": torch.randn(clients, units, generator=chance),
    }


def inputs_of_scores(clients: int, size: int, chance: Generator) -> Inputs:
    """As `inputs`, of the last layer."""
    return {**inputs(clients, size, chance), "activated": False}


def moved(x: Tensor, weight: Tensor, bias: Tensor, **others: object) -> int:
    """All is read, and results are written."""
    return x.nbytes + weight.nbytes + bias.nbytes + x.element_size() * len(x) * x.shape[1] * weight.shape[1]


def flops(x: Tensor, weight: Tensor, **others: object) -> int:
    """A product and a sum for each weight and example."""
    return 2 * weight.numel() * x.shape[1]


OP = Op(
    pick=stacked_layer,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=moved,
    flops=flops,
    differentiable=("x", "weight", "bias"),
    tolerance=2**-17,
    rowwise=("x", "weight", "bias"),
    timed=(256, 4096),
)
OP_SCORES = replace(OP, inputs=inputs_of_scores)
