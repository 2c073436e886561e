"""Several weighted sums of the same rows: what gradient codes send, and how they are decoded."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

BLOCK = 1024


@torch.no_grad()
def combinations(parts: Tensor, coefficients: Tensor) -> Tensor:
    """sum_m coefficients[n, m] parts[m] of parts (M, P) for each of N rows of coefficients (N, M): float64 (N, P).

    Encodes chunks' gradients, with the rows of `fedsim.coding.matrices.coefficients`; decodes what was heard of them,
    with one row of weights, as from `fedsim.coding.matrices.decoding`. Added up in float64 in the order of parts. One
    whose coefficient is 0 is not looked at, whatever it is. Kernels are of float32 alone: messages in float64 take the
    reference.
    """
    return picked(kernel, reference, parts)(parts, coefficients)


def reference(parts: Tensor, coefficients: Tensor) -> Tensor:
    """In plain torch."""
    totals = torch.zeros(len(coefficients), parts.shape[1], dtype=torch.float64, device=parts.device)
    for part, column in zip(parts.double(), coefficients.double().T, strict=True):
        totals += torch.where(column[:, None] == 0, 0.0, column[:, None] * part)
    return totals


def kernel(parts: Tensor, coefficients: Tensor) -> Tensor:
    """A part is read once for each row in which it counts: from the cache, as these rows' programs run side by side."""
    (count, size), rows = parts.shape, len(coefficients)
    out = torch.empty(rows, size, dtype=torch.float64, device=parts.device)
    if out.numel():
        _combine[(rows, pieces(size, BLOCK))](parts, coefficients, out, count, size, *parts.stride(),
                                              *coefficients.stride(), BLOCK)  # fmt: skip
    return out


@jit
def _combine(parts, coefficients, out, count, size, part_step, step, row_step, column_step, BLOCK: constexpr):
    row, places = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < size
    total = tl.zeros((BLOCK,), tl.float64)
    part = parts + places * step
    for number in range(count):
        coefficient = tl.load(coefficients + row * row_step + number * column_step).to(tl.float64)
        if coefficient != 0:
            total += coefficient * tl.load(part, mask=inside, other=0.0).to(tl.float64)
        part += part_step
    tl.store(out + row * size + places, total, mask=inside)


def inputs(count: int, size: int, chance: Generator) -> Inputs:
    """Gradients, of which every second is in a sum."""
    coefficients = torch.randn(5, count, generator=chance)
    coefficients[:, ::2] = 0
    return {"parts": torch.randn(count, size, generator=chance), "coefficients": coefficients}


OP = Op(
    pick=combinations,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda parts, coefficients: parts.nbytes + coefficients.nbytes + 8 * len(coefficients) * parts.shape[1],
    tolerance=2**-50,
    timed=(16, 2**20),
)
