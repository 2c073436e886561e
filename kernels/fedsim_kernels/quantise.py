"""Numbers over their bucket's norm, rounded at random to one of a few steps."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from fedsim_kernels.bounds import at_least
from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

BLOCK = 2048


@torch.no_grad()
def quantise(rows: Tensor, chance: Tensor, levels: int, bucket: int) -> tuple[Tensor, Tensor]:
    """Of rows (K, P) the buckets' 2-norms (K, buckets), in their type, and steps uint8 (K, P) within [0, 2 levels].

    As `fedsim.wire.quantised.QSGD`, before it packs: a number goes up to the next step if its chance (K, P), uniform in
    [0, 1), is less than what it is above the last one. What is not finite has step `levels`, which stands for 0, and
    its norm tells.
    """
    return picked(kernel, reference, rows)(rows, chance, levels, bucket)


def reference(rows: Tensor, chance: Tensor, levels: int, bucket: int) -> tuple[Tensor, Tensor]:
    """In plain torch."""
    count = pieces(rows.shape[1], bucket)
    buckets = pad(rows, (0, count * bucket - rows.shape[1])).view(len(rows), count, bucket)
    norms = buckets.double().square().sum(dim=2).sqrt().to(rows.dtype)
    exact = buckets / norms.clamp_min(torch.finfo(torch.float32).tiny)[:, :, None] * levels
    exact = exact.flatten(start_dim=1)[:, : rows.shape[1]]
    steps = exact.floor() + (chance < exact - exact.floor())
    return norms, (steps.nan_to_num(0.0) + levels).to(torch.uint8)


def kernel(rows: Tensor, chance: Tensor, levels: int, bucket: int) -> tuple[Tensor, Tensor]:
    """A program for a few buckets, which it reads twice: for their norms, and, from the cache, for their steps."""
    (clients, size), count = rows.shape, pieces(rows.shape[1], bucket)
    norms, steps = rows.new_empty(clients, count), torch.empty(clients, size, dtype=torch.uint8, device=rows.device)
    if steps.numel():
        width = min(BLOCK, 1 << (bucket - 1).bit_length())
        _round[(pieces(count, BLOCK // width), clients)](
            rows, chance, norms, steps, count, size, levels, bucket, *rows.stride(), *chance.stride(),
            norms.stride(0), steps.stride(0), torch.finfo(torch.float32).tiny, BLOCK // width, width)  # fmt: skip
    return norms, steps


@jit
def _round(rows, chance, norms, steps, count, size, levels, bucket, row_step, step, chance_row_step, chance_step,
           norm_row_step, step_row_step, tiny, BUCKETS: constexpr, WIDTH: constexpr):  # fmt: skip
    client = tl.program_id(1).to(tl.int64)
    numbers = tl.program_id(0).to(tl.int64) * BUCKETS + tl.arange(0, BUCKETS)
    squares = tl.zeros((BUCKETS, WIDTH), tl.float64)
    for start in range(0, bucket, WIDTH):
        places, inside = _places(numbers, start, bucket, size, WIDTH)
        value = tl.load(rows + client * row_step + places * step, mask=inside, other=0.0).to(tl.float64)
        squares += value * value
    norm = tl.sqrt(tl.sum(squares, 1)).to(tl.float32)
    tl.store(norms + client * norm_row_step + numbers, norm, mask=numbers < count)
    for start in range(0, bucket, WIDTH):
        places, inside = _places(numbers, start, bucket, size, WIDTH)
        value = tl.load(rows + client * row_step + places * step, mask=inside, other=0.0)
        uniform = tl.load(chance + client * chance_row_step + places * chance_step, mask=inside, other=0.0)
        ratio = tl.div_rn(value, at_least(norm, tiny)[:, None])
        exact = (ratio.to(tl.float64) * levels).to(tl.float32)  # rounded, as torch does, before the floor is taken off
        floor = tl.floor(exact)
        rounded = floor + (uniform < exact - floor).to(tl.float32)
        known = tl.where(rounded == rounded, rounded, 0.0)
        tl.store(steps + client * step_row_step + places, (known + levels).to(tl.int32).to(tl.uint8), mask=inside)


@jit
def _places(numbers, start, bucket, size, WIDTH: constexpr):
    """Of some of the numbers of some buckets, and which of these there are."""
    within = start + tl.arange(0, WIDTH)[None, :]
    places = numbers[:, None] * bucket + within
    return places, (within < bucket) & (places < size)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Updates, and as many chances; great ones in buckets like the codec's."""
    rows = torch.randn(clients, size, generator=chance)
    return {"rows": rows, "chance": torch.rand(clients, size, generator=chance), "levels": 7,
            "bucket": 100 if size < 4000 else 512}  # fmt: skip


OP = Op(
    pick=quantise,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda rows, chance, levels, bucket: rows.nbytes + chance.nbytes + rows.numel(),
    rowwise=("rows", "chance"),
)
