"""What numbers a count sketch was likely made of."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedsim_kernels.count_table import hashed
from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op
from fedsim_kernels.sorting import ascending

BLOCK = 256


@torch.no_grad()
def count_estimate(tables: Tensor, place: Tensor, sign: Tensor) -> Tensor:
    """Of tables t (K, R, width) the medians over r of sign[r, i] t[r, place[r, i]], in their type: (K, P).

    As `fedsim.wire.count_table.CountTable.estimate`, to the bit: of an even R the lower of both middle values, and NaN
    where any is.
    """
    return picked(kernel, reference, tables)(tables, place, sign)


def reference(tables: Tensor, place: Tensor, sign: Tensor) -> Tensor:
    """In plain torch."""
    said = sign.to(tables.dtype) * tables.gather(2, place.expand(len(tables), -1, -1))
    return said.median(dim=1).values


def kernel(tables: Tensor, place: Tensor, sign: Tensor) -> Tensor:
    """One pass over places and signs for each table, whose numbers are sorted in registers."""
    (clients, rows, _), size = tables.shape, place.shape[1]
    out = tables.new_empty(clients, size)
    if out.numel():
        _read[(pieces(size, BLOCK), clients)](tables, place, sign, out, rows, size, *tables.stride(), *place.stride(),
                                              *sign.stride(), BLOCK, (rows - 1).bit_length())  # fmt: skip
    return out


@jit
def _read(tables, place, sign, out, rows, size, table_step, row_step, step, place_row_step, place_step,
          sign_row_step, sign_step, BLOCK: constexpr, POWER: constexpr):  # fmt: skip
    numbers = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    numbers = tl.multiple_of(numbers, 1)  # as in `trimmed_mean`
    client, row = tl.program_id(1).to(tl.int64), tl.arange(0, 1 << POWER)[:, None]
    number = numbers[None, :]
    inside = (number < size) & (row < rows)
    where = tl.load(place + row * place_row_step + number * place_step, mask=inside, other=0)
    said = tl.load(tables + client * table_step + row * row_step + where * step, mask=inside, other=0.0)
    said *= tl.load(sign + row * sign_row_step + number * sign_step, mask=inside, other=0.0)
    ordered = ascending(tl.where(row < rows, said, float("inf")), BLOCK, POWER)
    middle = tl.sum(tl.where(row == (rows - 1) // 2, ordered, 0.0), 0)
    middle = tl.where(tl.sum((said != said).to(tl.int32), 0) > 0, float("nan"), middle)
    tl.store(out + client * size + numbers, middle.to(out.dtype.element_ty), mask=numbers < size)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Tables of a quarter of the places, of an even number of rows."""
    width = size // 4 + 1
    return {"tables": torch.randn(clients, 4, width, generator=chance), **hashed(4, size, width, chance)}


OP = Op(
    pick=count_estimate,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda tables, place, sign: (
        tables.nbytes + place.nbytes + sign.nbytes + len(tables) * place.shape[1] * tables.element_size()
    ),
    tolerance=0,
    rowwise=("tables",),
)
