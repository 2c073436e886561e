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
"""Numbers that it reads in a row of memory, at least, after the first pass: so one takes BLOCK / WIDE as a factor."""
WARP = 2**10
"""Numbers of a warp: 32 of a thread, which adds up five levels of them in its registers."""
CACHED = 25 * 2**20
"""Bytes of rows that all passes go over before the next rows: half of an H100's cache, beside as many that are read."""


@torch.no_grad()
def hadamard(rows: Tensor) -> Tensor:
    """H x of every row x (P,), padded with zeros to a power of two, in its type: (K, padded P).

    As `fedsim.wire.hadamard.transformed`: Sylvester's matrix, not normalised, so that H H x = padded(P) x. In float32,
    level by level: what comes out around 1 of 2 ** 20 numbers is off by less than 2 ** -20.
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
    """One pass over memory up to 2 ** 13 numbers, two up to 2 ** 23."""
    return product(rows, padded(rows.shape[1]))


def padded(size: int) -> int:
    """The least power of two that is not below.

    >>> padded(0), padded(1), padded(5), padded(64)
    (1, 1, 8, 64)
    """
    return 1 << max(0, size - 1).bit_length()


def product(rows: Tensor, size: int, before: Tensor | None = None, after: Tensor | None = None) -> Tensor:
    """The first `size` of every after * H (before * x), x a row padded with zeros: (K, size), in the rows' type.

    The first pass writes what is returned, the others change it in place: a few rows at a time, which they find in the
    cache. Nothing is fused, so that it rounds alike however it is compiled.
    """
    full = padded(max(rows.shape[1], size))
    powers = _powers(full.bit_length() - 1)
    out = rows.new_empty(len(rows), full)
    some = max(1, len(rows) if len(powers) == 1 else CACHED // (full * out.element_size()))
    for k in range(0, len(rows), some):
        given, kept, done, factor = rows[k : k + some], out[k : k + some], 0, before
        for power in powers:
            last = 1 << (done + power) == full
            _passed(given, kept, size if last else full, done, power, factor, after if last else None)
            given, done, factor = kept, done + power, None
    return out[:, :size]


def _powers(order: int) -> list[int]:
    """How many of H's levels each pass takes, of 2 ** order numbers: the first, along memory, as many as a block has.

    >>> _powers(0), _powers(20), _powers(24)
    ([0], [13, 7], [13, 5, 6])
    """
    first, most = min(order, BLOCK.bit_length() - 1), (BLOCK // WIDE).bit_length() - 1
    passes = pieces(order - first, most)
    return [first, *((order - first + k) // passes for k in range(passes))]


def _passed(rows: Tensor, out: Tensor, size: int, done: int, power: int,
            before: Tensor | None, after: Tensor | None) -> None:  # fmt: skip
    (clients, full), whole = out.shape, 16 * pieces(size, 16)  # fours, which one instruction stores
    block = min(BLOCK, full)
    steps = (0 if factor is None else factor.stride(0) for factor in (before, after))
    _pass[(full // block, clients)](rows, before, after, out, rows.shape[1], whole, *rows.stride(), *steps,
                                    out.stride(0), block, done, power, num_warps=max(1, block // WARP),
                                    enable_fp_fusion=False)  # fmt: skip


@jit
def _pass(rows, before, after, out, given, size, row_step, step, before_step, after_step, out_row_step,
          BLOCK: constexpr, DONE: constexpr, POWER: constexpr):  # fmt: skip
    other = tl.program_id(0).to(tl.int64) * (BLOCK >> POWER) + tl.arange(0, BLOCK >> POWER)
    row = tl.program_id(1).to(tl.int64)
    first = (other // (1 << DONE) << (DONE + POWER)) + other % (1 << DONE)
    places = first[None, :] + (tl.arange(0, 1 << POWER)[:, None] << DONE)
    values = tl.load(rows + row * row_step + places * step, mask=places < given, other=0.0)
    if before is not None:
        values *= tl.load(before + places * before_step, mask=places < given, other=0.0)
    values = _butterflies(values, BLOCK, 3 if POWER > 3 else POWER)  # a thread's 32 numbers are 8 loads of 4
    for left in tl.static_range(POWER - 3, 0, -5):
        values = _butterflies(values, BLOCK, 5 if left > 5 else left)
    values = tl.trans(tl.reshape(values, (BLOCK >> POWER, 1 << POWER)))
    if after is not None:
        values *= tl.load(after + places * after_step, mask=places < size, other=0.0)
    tl.store(out + row * out_row_step + places, values, mask=places < size)


@jit
def _butterflies(values, BLOCK: constexpr, POWER: constexpr):
    """H of order 2 ** POWER along what is outermost, which becomes innermost.

    Triton splits within threads. Where both halves are not in one, it lays all numbers out anew, with what is outermost
    in registers: where these hold 2 ** POWER, numbers change hands once.
    """
    for _ in tl.static_range(POWER):
        pairs = tl.reshape(values, (2, 1 << (POWER - 1), BLOCK >> POWER))
        low, high = tl.split(tl.permute(pairs, (1, 2, 0)))
        values = tl.permute(tl.join(low + high, low - high), (0, 2, 1))
    return tl.trans(tl.reshape(values, (1 << POWER, BLOCK >> POWER)))


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
    tolerance=2**-20,
    rowwise=("rows",),
)
