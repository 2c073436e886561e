"""Rows shortened to a norm, and noise that has an address, in two passes."""

from __future__ import annotations

from math import pi

import torch
from torch import Generator, Tensor

from fedsim_kernels import philox
from fedsim_kernels.bounds import at_least, clamped
from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op
from fedsim_kernels.philox import low_word, spread

BLOCK = 1024
TINY = 1e-30


@torch.no_grad()
def clip_and_noise(rows: Tensor, names: Tensor, seed: int, norm: float, deviation: float) -> Tensor:
    """Rows (K, P), each shortened to a 2-norm of at most `norm`, plus Gaussian noise of this standard deviation.

    Number i of a row goes by one of the four normal numbers, i mod 4, that Box and Muller make of Philox's words at
    (i // 4, name) under the seed. Their words are the same in kernel and reference, logarithm, root and cosine as
    exact as float32 is. No noise is beyond 5.8 deviations, as a uniform number has 23 bits: for simulations, not for
    secrets.

    Args:
        rows: what is clipped; not changed.
        names: of the rows, int64 (K,) within [0, 2^63): none twice under one seed.
        seed: within [0, 2^63).
        norm: the bound.
        deviation: of each number's noise.
    """
    return picked(kernel, reference, rows)(rows, names, seed, norm, deviation)


def reference(rows: Tensor, names: Tensor, seed: int, norm: float, deviation: float) -> Tensor:
    """In plain torch."""
    length = rows.double().square().sum(1).sqrt()
    factor = (norm / length.clamp_min(TINY)).clamp_max(1.0).to(rows.dtype)
    return rows * factor[:, None] + deviation * _normal(rows, names, seed)


def _normal(rows: Tensor, names: Tensor, seed: int) -> Tensor:
    """As many normal numbers as rows has, in its type."""
    quarters = torch.arange(pieces(rows.shape[1], 4), device=rows.device)
    high = (names >> 32)[:, None]
    drawn = philox.words(seed, (quarters, quarters >> 32, names[:, None], high))
    w0, w1, w2, w3 = (((word >> 9).to(rows.dtype) + 0.5) * 2.0**-23 for word in drawn)
    pairs = [(-2 * u.log()).sqrt() * turn(2 * pi * (v - 0.5))
             for u, v in ((w0, w1), (w2, w3)) for turn in (torch.cos, torch.sin)]  # fmt: skip
    return torch.stack(pairs, dim=2).flatten(1)[:, : rows.shape[1]]


def kernel(rows: Tensor, names: Tensor, seed: int, norm: float, deviation: float) -> Tensor:
    """Squares summed by block, the blocks' sums by row; then all at once."""
    (count, size), blocks = rows.shape, pieces(rows.shape[1], BLOCK)
    out = torch.empty((count, size), dtype=rows.dtype, device=rows.device)
    if rows.numel():
        squares = torch.empty((count, blocks), dtype=torch.float64, device=rows.device)
        factors = torch.empty(count, dtype=torch.float64, device=rows.device)
        _squares[(blocks, count)](rows, squares, size, blocks, *rows.stride(), BLOCK)
        _factors[(count,)](squares, factors, blocks, norm, TINY, BLOCK)
        _clip_and_noise[(blocks, count)](rows, names, factors, out, size, seed, deviation, *rows.stride(),
                                         names.stride(0), BLOCK)  # fmt: skip
    return out


@jit
def _squares(rows, squares, size, blocks, row_step, step, BLOCK: constexpr):
    row, block = tl.program_id(1).to(tl.int64), tl.program_id(0)
    numbers = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = tl.load(rows + row * row_step + numbers * step, mask=numbers < size, other=0.0).to(tl.float64)
    tl.store(squares + row * blocks + block, tl.sum(here * here))


@jit
def _factors(squares, factors, blocks, norm, tiny, BLOCK: constexpr):
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, blocks, BLOCK):
        places = first + tl.arange(0, BLOCK)
        total += tl.load(squares + row * blocks + places, mask=places < blocks, other=0.0)
    length = at_least(tl.sqrt(tl.sum(total)), tiny)
    tl.store(factors + row, clamped(norm / length, 0.0, 1.0))


@jit
def _clip_and_noise(rows, names, factors, out, size, seed, deviation, row_step, step, name_step, BLOCK: constexpr):
    row = tl.program_id(1).to(tl.int64)
    quarters = tl.program_id(0).to(tl.int64) * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    numbers = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    name = tl.load(names + row * name_step)
    nothing = tl.zeros((BLOCK // 4,), tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, low_word(quarters), low_word(quarters >> 32), nothing + low_word(name),
                               nothing + low_word(name >> 32))  # fmt: skip
    n0, n1 = _normal_pair(w0, w1)
    n2, n3 = _normal_pair(w2, w3)
    here = tl.load(rows + row * row_step + numbers * step, mask=numbers < size, other=0.0)
    noised = here * tl.load(factors + row).to(tl.float32) + deviation * spread(n0, n1, n2, n3)
    tl.store(out + row * size + numbers, noised, mask=numbers < size)


@jit
def _normal_pair(one, other):
    """Two normal numbers of two words."""
    u = ((one >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    v = ((other >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    radius, angle = tl.sqrt(-2.0 * tl.log(u)), 6.283185307179586 * (v - 0.5)
    return radius * tl.cos(angle), radius * tl.sin(angle)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Some rows are short enough, one is zero."""
    lengths = torch.arange(clients)[:, None] / max(1, size) ** 0.5
    return {"rows": torch.randn(clients, size, generator=chance) * lengths,
            "names": torch.randint(2**62, (clients,), generator=chance),
            "seed": 2**61 + 5, "norm": 1.5, "deviation": 0.5}  # fmt: skip


OP = Op(
    pick=clip_and_noise,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda rows, **others: 3 * rows.nbytes,
    tolerance=2**-20,
    rowwise=("rows", "names"),
)
