"""Count sketches of the clients' rows: every number is added, with a sign, to one place of each row of a table."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

BLOCK = 256


@torch.no_grad()
def count_table(rows: Tensor, place: Tensor, sign: Tensor, width: int) -> Tensor:
    """Of every row x (P,): t[r, place[r, i]] += sign[r, i] x[i], in its type, (K, R, width).

    As `fedsim.wire.count_table.CountTable`, whose hashes are places int64 and signs, (R, P) each. What meets in a place
    is added up in float64 in the order of i: numbers are sorted by place first, once for all clients.
    """
    return picked(kernel, reference, rows)(rows, place, sign, width)


def reference(rows: Tensor, place: Tensor, sign: Tensor, width: int) -> Tensor:
    """In plain torch."""
    table = torch.zeros(len(rows), len(place), width, dtype=torch.float64, device=rows.device)
    table.scatter_add_(2, place.expand(len(rows), -1, -1), rows.double()[:, None, :] * sign.double())
    return table.to(rows.dtype)


def kernel(rows: Tensor, place: Tensor, sign: Tensor, width: int) -> Tensor:
    """A sort of the places, then every number is read once for each row of the table."""
    (clients, size), tables = rows.shape, len(place)
    out = rows.new_zeros(clients, tables, width)
    if out.numel() and size:
        ordered, order = place.contiguous().sort(dim=1, stable=True)
        bounds = torch.arange(width + 1, device=rows.device).expand(tables, -1).contiguous()
        starts = torch.searchsorted(ordered, bounds)
        _add[(pieces(width, BLOCK), tables, clients)](rows, order, starts, sign.gather(1, order), out, size, width,
                                                      *rows.stride(), BLOCK)  # fmt: skip
    return out


@jit
def _add(rows, order, starts, signs, out, size, width, row_step, step, BLOCK: constexpr):
    bins = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    table, client, inside = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64), bins < width
    start = starts + table * (width + 1) + bins
    member = tl.load(start, mask=inside, other=0)
    end = tl.load(start + 1, mask=inside, other=0)
    total = tl.zeros((BLOCK,), tl.float64)
    for _ in range(tl.max(end - member)):
        there = member < end
        number = tl.load(order + table * size + member, mask=there, other=0)
        value = tl.load(rows + client * row_step + number * step, mask=there, other=0.0).to(tl.float64)
        total += tl.load(signs + table * size + member, mask=there, other=0.0).to(tl.float64) * value
        member += 1
    place = out + (client * tl.num_programs(1) + table) * width + bins
    tl.store(place, total.to(out.dtype.element_ty), mask=inside)


def hashed(tables: int, size: int, width: int, chance: Generator) -> Inputs:
    """A place and a sign for each of so many numbers, for each row of a table."""
    return {
        "place": torch.randint(width, (tables, size), generator=chance),
        "sign": torch.randint(2, (tables, size), generator=chance) * 2.0 - 1,
    }


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Updates, and hashes to a quarter of their places."""
    width = size // 4 + 1
    return {"rows": torch.randn(clients, size, generator=chance), **hashed(3, size, width, chance), "width": width}


OP = Op(
    pick=count_table,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda rows, place, sign, width: (
        rows.nbytes + place.nbytes + sign.nbytes + len(rows) * len(place) * width * rows.element_size()
    ),
    rowwise=("rows",),
)
