"""How far the clients' rows are from each other."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedsim_kernels.language import WIDE, constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

TILE, STEP = 8, 64
"""Rows on either side, and coordinates at once: a program keeps TILE x TILE x STEP sums in registers."""
BLOCK = 2**11
"""Coordinates of a program; what several find is added up in their order."""


@torch.no_grad()
def distances(rows: Tensor) -> Tensor:
    """Squared, between each two of rows (K, P): float64 (K, K), symmetric to the last bit, its diagonal zero.

    As `fedsim.defences.defence.distances`, for Krum. Of differences, in float64: products of rows near each other and
    far from zero would leave nothing of them.
    """
    return picked(kernel, reference, rows, WIDE)(rows)


def reference(rows: Tensor) -> Tensor:
    """In plain torch."""
    rows, apart = rows.double(), torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for own, row in zip(apart, rows, strict=True):
        own.copy_((rows - row).square().sum(dim=1))
    return apart


def kernel(rows: Tensor) -> Tensor:
    """Every row is read once for each TILE rows."""
    (clients, size), spans = rows.shape, pieces(rows.shape[1], BLOCK)
    parts = torch.zeros(spans, clients, clients, dtype=torch.float64, device=rows.device)
    if parts.numel():
        tiles = pieces(clients, TILE)
        _differences[(spans, tiles, tiles)](rows, parts, clients, size, *rows.stride(), TILE,
                                            min(STEP, BLOCK), BLOCK)  # fmt: skip
    return parts.sum(dim=0)


@jit
def _differences(rows, parts, clients, size, row_step, step, TILE: constexpr, STEP: constexpr, BLOCK: constexpr):
    span, upper, left = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    if upper > left:  # found by the program across the diagonal
        return
    one = upper * TILE + tl.arange(0, TILE)
    other = left * TILE + tl.arange(0, TILE)
    near_at = rows + one[:, None, None] * row_step
    far_at = rows + other[None, :, None] * row_step
    total = tl.zeros((TILE, TILE, STEP), tl.float64)
    for start in range(0, min(BLOCK, size - span * BLOCK), STEP):
        places = (span * BLOCK + start + tl.arange(0, STEP))[None, None, :]
        near = tl.load(near_at + places * step, mask=(places < size) & (one[:, None, None] < clients), other=0.0)
        far = tl.load(far_at + places * step, mask=(places < size) & (other[None, :, None] < clients), other=0.0)
        apart = near.to(tl.float64) - far.to(tl.float64)
        total += apart * apart
    found = tl.sum(total, 2)
    part = parts + span * clients * clients
    ordered = (one[:, None] <= other[None, :]) & (other[None, :] < clients)
    tl.store(part + one[:, None] * clients + other[None, :], found, mask=ordered)
    tl.store(part + other[None, :] * clients + one[:, None], found, mask=ordered & (one[:, None] < other[None, :]))


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Models near each other and far from zero."""
    return {"rows": 100 + torch.randn(clients, size, generator=chance) / 100}


OP = Op(
    pick=distances,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda rows: rows.nbytes + 8 * len(rows) ** 2,
    flops=lambda rows: 3 * rows.numel() * len(rows) // 2,
    computes=torch.float64,
    tolerance=2**-44,
)
