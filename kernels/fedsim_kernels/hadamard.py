"""The fast Walsh-Hadamard transform of the clients' rows."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

BLOCK = 2**13
"""Numbers of a program."""
WIDE = 8
"""Numbers that it reads in a row of memory, at least: so a pass takes BLOCK / WIDE as a factor of the order at most."""


@torch.no_grad()
def hadamard(rows: Tensor) -> Tensor:
    """H x of every row x (P,), padded with zeros to a power of two, in its type: (K, padded P).

    As `fedsim.wire.hadamard.transformed`: Sylvester's matrix, not normalised, so that H H x = padded(P) x. In float64,
    but for what lies in memory between passes, one for each 2 ** 10.
    """
    return picked(kernel, reference, rows)(rows)


def reference(rows: Tensor) -> Tensor:
    """In plain torch."""
    values = pad(rows.double(), (0, padded(rows.shape[1]) - rows.shape[1]))
    stride = 1
    while stride < values.shape[1]:
        low, high = values.reshape(len(rows), values.shape[1] // (2 * stride), 2, stride).unbind(dim=2)
        values, stride = torch.stack([low + high, low - high], dim=2).flatten(start_dim=1), 2 * stride
    return values.to(rows.dtype)


def kernel(rows: Tensor) -> Tensor:
    """One pass over memory for each 2 ** 10."""
    return product(rows, padded(rows.shape[1]))


def padded(size: int) -> int:
    """The least power of two that is not below.

    >>> padded(0), padded(1), padded(5), padded(64)
    (1, 1, 8, 64)
    """
    return 1 << max(0, size - 1).bit_length()


def product(rows: Tensor, size: int, before: Tensor | None = None, after: Tensor | None = None) -> Tensor:
    """The first `size` of every after * H (before * x), x a row padded with zeros: (K, size), in the rows' type."""
    full = padded(max(rows.shape[1], size))
    left, most, stride = full.bit_length() - 1, (BLOCK // WIDE).bit_length() - 1, 1
    for passes in range(max(1, pieces(left, most)), 0, -1):
        power = pieces(left, passes)
        left -= power
        rows = _passed(rows, size if passes == 1 else full, full, stride, power, before, after if passes == 1 else None)
        before, stride = None, stride << power
    return rows


def _passed(rows: Tensor, size: int, full: int, stride: int, power: int,
            before: Tensor | None, after: Tensor | None) -> Tensor:  # fmt: skip
    (clients, given), others, tile = rows.shape, full >> power, BLOCK >> power
    out = rows.new_empty(clients, size)
    if out.numel():
        steps = (0 if sign is None else sign.stride(0) for sign in (before, after))
        _butterflies[(pieces(others, tile), clients)](rows, before, after, out, given, size, others, stride,
                                                      *rows.stride(), *steps, out.stride(0), tile, power,
                                                      num_warps=8)  # fmt: skip
    return out


@jit
def _butterflies(rows, before, after, out, given, size, others, stride, row_step, step, before_step, after_step,
                 out_row_step, TILE: constexpr, POWER: constexpr):  # fmt: skip
    other = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    row = tl.program_id(1).to(tl.int64)
    first = (other // stride * stride << POWER) + other % stride
    places = first[:, None] + tl.arange(0, 1 << POWER)[None, :] * stride
    known = (other[:, None] < others) & (places < given)
    wanted = (other[:, None] < others) & (places < size)
    values = tl.load(rows + row * row_step + places * step, mask=known, other=0.0).to(tl.float64)
    if before is not None:
        values *= tl.load(before + places * before_step, mask=known, other=0.0).to(tl.float64)
    for power in tl.static_range(POWER):
        pairs = tl.reshape(values, (TILE << (POWER - power - 1), 2, 1 << power))
        second = tl.arange(0, 2)[None, :, None] == 1
        sums, differences = tl.sum(pairs, 1), tl.sum(tl.where(second, -pairs, pairs), 1)
        values = tl.reshape(tl.where(second, differences[:, None, :], sums[:, None, :]), (TILE, 1 << POWER))
    if after is not None:
        values *= tl.load(after + places * after_step, mask=wanted, other=0.0).to(tl.float64)
    tl.store(out + row * out_row_step + places, values.to(out.dtype.element_ty), mask=wanted)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Updates that become numbers around 1."""
    return {"rows": torch.randn(clients, size, generator=chance) / sqrt(padded(size))}


OP = Op(
    pick=hadamard,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda rows: rows.nbytes + len(rows) * padded(rows.shape[1]) * rows.element_size(),
    fraction=0.7,
    tolerance=2**-22,
    rowwise=("rows",),
)
