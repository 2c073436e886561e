"""Of every coordinate the mean over clients, without the largest and the smallest values."""

from __future__ import annotations

from math import inf

import torch
from torch import Generator, Tensor

from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op
from fedsim_kernels.sorting import ascending

BLOCK = 8192
"""Numbers that a program of four warps sorts: 64 of a thread, which are one coordinate's if there are 64 clients."""
NARROW = 32
"""Coordinates of a program, at least: what memory is read in."""


@torch.no_grad()
def trimmed_mean(rows: Tensor, trimmed: int) -> Tensor:
    """Of every column of rows (K, P) the mean without its `trimmed` largest and smallest values, in their type: (P,).

    At least one value stays, or two of an even K, as in `fedsim.defences.TrimmedMean`; of no rows it is 0. What is not
    a number counts as infinite. Summed in float64.
    """
    return picked(kernel, reference, rows)(rows, trimmed)


def reference(rows: Tensor, trimmed: int) -> Tensor:
    """In plain torch."""
    first, end = _kept(len(rows), trimmed)
    ordered = rows.masked_fill(rows.isnan(), inf).sort(dim=0).values
    return (ordered[first:end].double().sum(dim=0) / max(1, end - first)).to(rows.dtype)


def kernel(rows: Tensor, trimmed: int) -> Tensor:
    """One pass over the rows, which are sorted in registers."""
    (clients, size), out = rows.shape, rows.new_zeros(rows.shape[1])
    if rows.numel():
        power = (clients - 1).bit_length()
        block = max(NARROW, BLOCK >> power)
        warps = min(32, max(4, (block << power) // 2048))
        _mean[(pieces(size, block),)](rows, out, clients, size, *rows.stride(), out.stride(0), *_kept(clients, trimmed),
                                      block, power, num_warps=warps)  # fmt: skip
    return out


def _kept(clients: int, trimmed: int) -> tuple[int, int]:
    """From where to where, in ascending order."""
    trimmed = max(0, min(trimmed, (clients - 1) // 2))
    return trimmed, clients - trimmed


@jit
def _mean(rows, out, clients, size, row_step, step, out_step, first, end, BLOCK: constexpr, POWER: constexpr):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    places = tl.multiple_of(places, 1)  # says less than is so: else fours are read, and a coordinate has many threads
    client = tl.arange(0, 1 << POWER)
    inside = (client[:, None] < clients) & (places[None, :] < size)
    values = tl.load(rows + client[:, None] * row_step + places[None, :] * step, mask=inside, other=float("inf"))
    values = tl.where(values == values, values, float("inf"))
    kept = (client >= first) & (client < end)
    total = tl.sum(tl.where(kept[:, None], ascending(values, BLOCK, POWER).to(tl.float64), 0.0), 0)
    tl.store(out + places * out_step, (total / (end - first)).to(out.dtype.element_ty), mask=places < size)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Updates, many values of which are alike, and one liar."""
    return {"rows": torch.randn(clients, size, generator=chance).mul(8).round().div(8), "trimmed": 1}


OP = Op(
    pick=trimmed_mean,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda rows, trimmed: rows.nbytes + rows[0].nbytes,
)
