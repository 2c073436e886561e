"""A step of projected gradient descent on the inputs of a stack of clients."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Generator, Tensor

from fedsim_kernels.bounds import at_least, clamped
from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

BLOCK = 1024
TINY = 1e-12
Norm = Literal["linf", "l2"]


@torch.no_grad()
def pgd(points: Tensor, slopes: Tensor, x: Tensor, step: float, radius: float, norm: Norm, low: float = 0.0,
        high: float = 1.0) -> Tensor:  # fmt: skip
    """Points (K, B, *shape) along their slopes, then back into the ball around x and into the range: new points.

    Along the slope's sign (`linf`) or its direction (`l2`), as `fedsim.objectives.PGD`; every example of the batches
    has a ball of its own. `radius` is the ball's, `step` the step's length, `low` and `high` are the range's ends.
    """
    if norm not in ("linf", "l2"):
        raise ValueError(f"the norm is linf or l2, not {norm}")
    return picked(kernel, reference, points)(points, slopes, x, step, radius, norm, low, high)


def reference(points: Tensor, slopes: Tensor, x: Tensor, step: float, radius: float, norm: Norm, low: float = 0.0,
              high: float = 1.0) -> Tensor:  # fmt: skip
    """In plain torch."""
    along = slopes.sign() if norm == "linf" else slopes / _lengths(slopes)
    return projected(points + step * along, x, radius, norm, low, high)


def projected(points: Tensor, x: Tensor, radius: float, norm: Norm, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Points back into the ball around x and into the range, in plain torch."""
    away = points - x
    within = away.clamp(-radius, radius) if norm == "linf" else away * (radius / _lengths(away)).clamp_max(1.0)
    return (x + within).clamp(low, high)


def _lengths(rows: Tensor) -> Tensor:
    """2-norms of the examples, for division: (K, B, 1, ...)."""
    return rows.flatten(2).norm(dim=2).clamp_min(TINY).view(*rows.shape[:2], *[1] * (rows.dim() - 2))


def kernel(points: Tensor, slopes: Tensor, x: Tensor, step: float, radius: float, norm: Norm, low: float = 0.0,
           high: float = 1.0) -> Tensor:  # fmt: skip
    """One pass where the norm is linf; by l2 a program goes three times over its example."""
    rows, size = points.shape[0] * points.shape[1], points.shape[2:].numel()
    out = torch.empty(points.shape, dtype=points.dtype, device=points.device)
    if points.numel():
        flat = [given.reshape(rows, size) for given in (points, slopes, x)]
        strides = [stride for given in flat for stride in given.stride()]
        if norm == "linf":
            _linf[(pieces(size, BLOCK), rows)](*flat, out, size, step, radius, low, high, *strides, BLOCK)
        else:
            _l2[(rows,)](*flat, out, size, step, radius, low, high, *strides, TINY, BLOCK)
    return out


@jit
def _linf(points, slopes, x, out, size, step, radius, low, high, point_row, point_step, slope_row, slope_step, x_row,
          x_step, BLOCK: constexpr):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    numbers = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = numbers < size
    point = tl.load(points + row * point_row + numbers * point_step, mask=inside, other=0.0)
    slope = tl.load(slopes + row * slope_row + numbers * slope_step, mask=inside, other=0.0)
    centre = tl.load(x + row * x_row + numbers * x_step, mask=inside, other=0.0)
    sign = (slope > 0).to(tl.float32) - (slope < 0).to(tl.float32)
    away = clamped(point + step * sign - centre, -radius, radius)
    tl.store(out + row * size + numbers, clamped(centre + away, low, high), mask=inside)


@jit
def _l2(points, slopes, x, out, size, step, radius, low, high, point_row, point_step, slope_row, slope_step, x_row,
        x_step, tiny, BLOCK: constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    points, slopes, x = points + row * point_row, slopes + row * slope_row, x + row * x_row
    steep = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, size, BLOCK):
        numbers = first + tl.arange(0, BLOCK).to(tl.int64)
        slope = tl.load(slopes + numbers * slope_step, mask=numbers < size, other=0.0).to(tl.float64)
        steep += slope * slope
    length = at_least(tl.sqrt(tl.sum(steep)), tiny).to(tl.float32)
    far = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, size, BLOCK):
        numbers = first + tl.arange(0, BLOCK).to(tl.int64)
        away = _away(points, slopes, x, numbers, size, step, length, point_step, slope_step, x_step).to(tl.float64)
        far += away * away
    factor = clamped(radius / at_least(tl.sqrt(tl.sum(far)), tiny), 0.0, 1.0).to(tl.float32)
    for first in range(0, size, BLOCK):
        numbers = first + tl.arange(0, BLOCK).to(tl.int64)
        away = _away(points, slopes, x, numbers, size, step, length, point_step, slope_step, x_step)
        there = tl.load(x + numbers * x_step, mask=numbers < size, other=0.0) + factor * away
        tl.store(out + row * size + numbers, clamped(there, low, high), mask=numbers < size)


@jit
def _away(points, slopes, x, numbers, size, step, length, point_step, slope_step, x_step):
    """From the centre, after the step; zero beyond the end."""
    inside = numbers < size
    point = tl.load(points + numbers * point_step, mask=inside, other=0.0)
    slope = tl.load(slopes + numbers * slope_step, mask=inside, other=0.0)
    return point + step * tl.div_rn(slope, length) - tl.load(x + numbers * x_step, mask=inside, other=0.0)


def inputs(clients: int, size: int, chance: Generator, norm: Norm = "linf") -> Inputs:
    """Batches of two: of each pair of points one leaves its ball, and some the range; some slopes are zero."""
    x = torch.rand(clients, 2, size, generator=chance)
    shifts, slopes = (torch.randn(clients, 2, size, generator=chance) for _ in range(2))
    reach = torch.tensor([0.01, 0.3])[:, None] / (size**0.5 if norm == "l2" else 1)
    return {"points": x + reach * shifts, "slopes": slopes * (slopes.abs() > 0.1), "x": x, "step": 0.07,
            "radius": 0.2, "norm": norm}  # fmt: skip


def inputs_l2(clients: int, size: int, chance: Generator) -> Inputs:
    """As `inputs`."""
    return inputs(clients, size, chance, "l2")


def moved(points: Tensor, **others: object) -> int:
    """Three are read and one written; what is read again by l2 is in the cache, if examples fit there."""
    return 4 * points.nbytes


OP = Op(
    pick=pgd,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=moved,
    tolerance=2**-21,
    rowwise=("points", "slopes", "x"),
    timed=(64, 3 * 2**16),
)
OP_L2 = replace(OP, inputs=inputs_l2)
