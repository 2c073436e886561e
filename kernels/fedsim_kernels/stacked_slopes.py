"""What a loss changes with the inputs of a stack's linear layers, and with what came before their ReLU."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op, layer_sizes
from fedsim_kernels.tiles import put, tile

ROWS, COLUMNS, INNER = 16, 128, 32
"""Of a tile of results, and how much of their sums at a time; a product of matrices wants 16 of each."""


def stacked_slopes(slope: Tensor, weight: Tensor, gate: Tensor | None = None) -> Tensor:
    """S_k W_k of slopes (K, B, m) with respect to results and weights (K, m, n): (K, B, n), in one pass.

    Where the inputs are a ReLU's results they are its `gate` (K, B, n): it lets through where they are not 0 or less.
    """
    return picked(kernel, reference, slope)(slope, weight, gate)


def reference(slope: Tensor, weight: Tensor, gate: Tensor | None = None) -> Tensor:
    """In plain torch."""
    found = torch.bmm(slope, weight)
    return found if gate is None else torch.ops.aten.threshold_backward(found, gate, 0)


def kernel(slope: Tensor, weight: Tensor, gate: Tensor | None = None) -> Tensor:
    """Product and gate without a result in between."""
    (clients, batch, outer), inner = slope.shape, weight.shape[2]
    out = slope.new_empty(clients, batch, inner)
    if out.numel():
        strides = (0, 0, 0) if gate is None else gate.stride()
        _slopes[(clients, pieces(batch, ROWS), pieces(inner, COLUMNS))](
            slope, weight, gate, out, batch, outer, inner, *slope.stride(), *weight.stride(), *strides, *out.stride(),
            ROWS, COLUMNS, INNER)  # fmt: skip
    return out


@jit
def _slopes(
    slope, weight, gate, out, batch, outer, inner, slope_client, slope_row, slope_step, weight_client, weight_row,
    weight_step, gate_client, gate_row, gate_step, out_client, out_row, out_step,
    ROWS: constexpr, COLUMNS: constexpr, INNER: constexpr,
):  # fmt: skip
    client = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, outer, INNER):
        k = first + tl.arange(0, INNER)
        change = tile(slope + client * slope_client, rows, k, batch, outer, slope_row, slope_step)
        own = tile(weight + client * weight_client, k, columns, outer, inner, weight_row, weight_step)
        total += tl.dot(change, own, input_precision="ieee")
    if gate is not None:
        through = tile(gate + client * gate_client, rows, columns, batch, inner, gate_row, gate_step)
        total = tl.where(through <= 0, 0.0, total)  # so that what is no number lets through, as in torch
    put(out + client * out_client, total, rows, columns, batch, inner, out_row, out_step)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Clients with a few examples and units, and so many inputs, about half of them 0."""
    batch, units = layer_sizes(size)
    return {
        "slope": torch.randn(clients, batch, units, generator=chance),
        "weight": units**-0.5 * torch.randn(clients, units, size, generator=chance),
        "gate": torch.randn(clients, batch, size, generator=chance).relu_(),
    }


OP = Op(
    pick=stacked_slopes,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda slope, weight, gate: slope.nbytes + weight.nbytes + 2 * gate.nbytes,
    flops=lambda slope, weight, gate: 2 * weight.numel() * slope.shape[1],
    tolerance=2**-19,
    rowwise=("slope", "weight", "gate"),
    timed=(256, 4096),
)
