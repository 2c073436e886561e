"""Gradients of weights and biases of a stack's linear layers."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op, layer_sizes
from fedsim_kernels.tiles import put, tile

ROWS, COLUMNS, INNER = 32, 128, 16
"""Of a tile of results, and how many examples are added up at a time; a product of matrices wants 16 of each."""


def stacked_gradients(slope: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """S_k^T X_k (K, m, n) and the sum of S_k over examples (K, m), in one pass over the batch.

    Of slopes (K, B, m) with respect to a layer's results, before a ReLU, and the layer's inputs (K, B, n).
    """
    return picked(kernel, reference, slope)(slope, given)


def reference(slope: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """In plain torch."""
    return torch.bmm(slope.mT, given), slope.sum(1)


def kernel(slope: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Examples are added up in their order; the biases' by those programs that have the first columns."""
    (clients, batch, outer), inner = slope.shape, given.shape[2]
    weight, bias = slope.new_empty(clients, outer, inner), slope.new_empty(clients, outer)
    if bias.numel():
        _gradients[(clients, pieces(outer, ROWS), max(1, pieces(inner, COLUMNS)))](
            slope, given, weight, bias, batch, outer, inner, *slope.stride(), *given.stride(), *weight.stride(),
            *bias.stride(), ROWS, COLUMNS, INNER)  # fmt: skip
    return weight, bias


@jit
def _gradients(
    slope, given, weight, bias, batch, outer, inner, slope_client, slope_row, slope_step,
    given_client, given_row, given_step, weight_client, weight_row, weight_step, bias_client, bias_step,
    ROWS: constexpr, COLUMNS: constexpr, INNER: constexpr,
):  # fmt: skip
    client = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    total, alone = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS,), tl.float32)
    for first in range(0, batch, INNER):
        k = first + tl.arange(0, INNER)
        change = tile(slope + client * slope_client, rows, k, outer, batch, slope_step, slope_row)
        here = tile(given + client * given_client, k, columns, batch, inner, given_row, given_step)
        total += tl.dot(change, here, input_precision="ieee")
        alone += tl.sum(change, 1)
    put(weight + client * weight_client, total, rows, columns, outer, inner, weight_row, weight_step)
    if tl.program_id(2) == 0:
        tl.store(bias + client * bias_client + rows * bias_step, alone, mask=rows < outer)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Clients with a few examples of so many numbers, and units."""
    batch, units = layer_sizes(size)
    return {
        "slope": torch.randn(clients, batch, units, generator=chance),
        "given": torch.randn(clients, batch, size, generator=chance),
    }


def moved(slope: Tensor, given: Tensor) -> int:
    """Both are read, and gradients are written."""
    return slope.nbytes + given.nbytes + given.element_size() * len(given) * slope.shape[2] * (given.shape[2] + 1)


OP = Op(
    pick=stacked_gradients,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=moved,
    flops=lambda slope, given: 2 * slope.numel() * given.shape[2],
    tolerance=2**-19,
    rowwise=("slope", "given"),
    timed=(256, 4096),
)
