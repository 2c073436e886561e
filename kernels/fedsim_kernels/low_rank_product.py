"""A linear layer of a population, each member with a change of low rank of its own: EGGROLL's forward pass."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op, layer_sizes
from fedsim_kernels.tiles import put, tile

ROWS, COLUMNS, INNER = 16, 64, 32
"""Of a tile of results, and how much of their sums at a time; a product of matrices wants 16 of each."""
THIN = 16


def low_rank_product(x: Tensor, weight: Tensor, left: Tensor, right: Tensor, signs: Tensor) -> Tensor:
    """x_p W^T + s_p (x_p B_p) A_p^T for each member p, without ever making A_p B_p^T: (P, B, m).

    Of inputs (P, B, n), the weight (m, n) that all share, factors A (P, m, r) and B (P, n, r) with r up to 16 where
    the kernel runs, and signs (P,), which may carry a scale. Arbitrary strides; sums in the inputs' type.
    """
    return picked(kernel, reference, x)(x, weight, left, right, signs)


def reference(x: Tensor, weight: Tensor, left: Tensor, right: Tensor, signs: Tensor) -> Tensor:
    """In plain torch."""
    return x @ weight.mT + signs.view(-1, 1, 1) * ((x @ right) @ left.mT)


def kernel(x: Tensor, weight: Tensor, left: Tensor, right: Tensor, signs: Tensor) -> Tensor:
    """Both products in one pass over x."""
    (members, batch, inner), outer, rank = x.shape, len(weight), left.shape[2]
    if rank > THIN:
        raise ValueError(f"factors of rank {rank} are too wide: at most {THIN}")
    out = x.new_empty(members, batch, outer)
    if out.numel():
        grid = (members, pieces(batch, ROWS), pieces(outer, COLUMNS))
        _product[grid](x, weight, left, right, signs, out, batch, inner, outer, rank, *x.stride(), *weight.stride(),
                       *left.stride(), *right.stride(), *signs.stride(), *out.stride(),
                       ROWS, COLUMNS, INNER, THIN)  # fmt: skip
    return out


@jit
def _product(
    x, weight, left, right, signs, out, batch, inner, outer, rank,
    x_member, x_row, x_step, weight_row, weight_step, left_member, left_row, left_step,
    right_member, right_row, right_step, sign_step, out_member, out_row, out_step,
    ROWS: constexpr, COLUMNS: constexpr, INNER: constexpr, THIN: constexpr,
):  # fmt: skip
    member = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    thin = tl.arange(0, THIN)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    low = tl.zeros((ROWS, THIN), tl.float32)
    for first in range(0, inner, INNER):
        k = first + tl.arange(0, INNER)
        given = tile(x + member * x_member, rows, k, batch, inner, x_row, x_step)
        shared = tile(weight, k, columns, inner, outer, weight_step, weight_row)
        own = tile(right + member * right_member, k, thin, inner, rank, right_row, right_step)
        total += tl.dot(given, shared, input_precision="ieee")
        low += tl.dot(given, own, input_precision="ieee")
    low = tl.where((thin < rank)[None, :], low, 0.0)  # an infinity in x times the zeros beyond the rank is no number
    back = tile(left + member * left_member, thin, columns, rank, outer, left_step, left_row)
    total += tl.load(signs + member * sign_step) * tl.dot(low, back, input_precision="ieee")
    put(out + member * out_member, total, rows, columns, batch, outer, out_row, out_step)


def inputs(members: int, size: int, chance: Generator) -> Inputs:
    """Members with a few examples of so many numbers, and results, rank 3, and signs that go opposite ways."""
    (batch, units), scale = layer_sizes(size), max(1, size) ** -0.5
    return {
        "x": torch.randn(members, batch, size, generator=chance),
        "weight": scale * torch.randn(units, size, generator=chance),
        "left": torch.randn(members, units, 3, generator=chance),
        "right": scale * torch.randn(members, size, 3, generator=chance),
        "signs": 0.1 * (1 - 2 * (torch.arange(members) % 2)).float(),
    }


OP = Op(
    pick=low_rank_product,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda x, weight, left, right, signs: (
        x.nbytes + weight.nbytes + left.nbytes + right.nbytes + 4 * len(x) * x.shape[1] * len(weight)
    ),
    flops=lambda x, weight, left, right, signs: (
        2 * (x.shape[1] * (len(x) * weight.numel() + left.numel() + right.numel()))
    ),
    tolerance=2**-17,
    rowwise=("x", "left", "right", "signs"),
    timed=(1024, 4096),
)
