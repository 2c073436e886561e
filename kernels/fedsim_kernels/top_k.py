"""The largest numbers of the clients' rows, with their places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

BLOCK = 2048
DIGIT = 8
"""Bits by which the least number that is kept is found in one pass, the highest first."""


@torch.no_grad()
def top_k(rows: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Of each row (P,) the `kept` numbers of the largest size, in its type, and their places int32: (K, kept) each.

    In the order of places, as in `fedsim.wire.sparse.TopK`; of equals the first are kept, and NaN is larger than all.

    Raises:
        ValueError: there are not so many.
    """
    if not 0 <= kept <= rows.shape[1]:
        raise ValueError(f"of {rows.shape[1]} numbers 0 to {rows.shape[1]} can be kept, not {kept}")
    return picked(kernel, reference, rows)(rows, kept)


def reference(rows: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """In plain torch."""
    order = rows.abs().sort(dim=1, descending=True, stable=True).indices
    places = order[:, :kept].sort(dim=1).values
    return rows.gather(1, places), places.int()


def kernel(rows: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """A pass for each digit of the least number that is kept, one that counts, and one that writes."""
    clients, size = rows.shape
    values = rows.new_empty(clients, kept)
    places = torch.empty(clients, kept, dtype=torch.int32, device=rows.device)
    if values.numel():
        least, equals = _least(rows, kept)
        blocks = pieces(size, BLOCK)
        counts = torch.empty(2, clients, blocks, dtype=torch.int64, device=rows.device)
        given = (rows, least, size, *rows.stride())
        _count[(blocks, clients)](*given, counts[0], counts[1], _word(rows), BLOCK)
        larger, equal = counts.cumsum(dim=2) - counts
        _write[(blocks, clients)](*given, equals, larger, equal, values, places, kept, _word(rows), BLOCK)
    return values, places


def _least(rows: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """The bits, without a sign, of each row's least number that is kept, and how many that equal it are: int64 (K,)."""
    (clients, size), bits = rows.shape, 8 * rows.element_size()
    least = torch.zeros(clients, dtype=torch.int64, device=rows.device)
    left = torch.full_like(least, kept)
    for shift in range(bits - DIGIT, -1, -DIGIT):
        counts = torch.zeros(clients, 1 << DIGIT, dtype=torch.int32, device=rows.device)
        _histogram[(pieces(size, BLOCK), clients)](rows, least, size, *rows.stride(), counts, shift,
                                                   _word(rows), BLOCK, DIGIT)  # fmt: skip
        above = counts.flip(1).cumsum(dim=1).flip(1)
        digit = (above[:, 1:] >= left[:, None]).sum(dim=1, keepdim=True)
        left -= (above - counts).gather(1, digit)[:, 0]
        least = (least << DIGIT) + digit[:, 0]
    return least, left


def _word(rows: Tensor) -> Any:
    """Triton's whole numbers of as many bits."""
    return getattr(tl, f"int{8 * rows.element_size()}")


@jit
def _keys(rows, size, row_step, step, places, WORD: constexpr):
    """The bits without a sign, which are ordered as the numbers' sizes; -1 where there are none."""
    value = tl.load(rows + tl.program_id(1).to(tl.int64) * row_step + places * step, mask=places < size, other=0.0)
    return tl.where(places < size, tl.abs(value).to(WORD, bitcast=True).to(tl.int64), -1)


@jit
def _histogram(rows, least, size, row_step, step, counts, shift, WORD: constexpr, BLOCK: constexpr, DIGIT: constexpr):
    client, places = tl.program_id(1), tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    keys = _keys(rows, size, row_step, step, places, WORD) >> shift
    digits = (keys & ((1 << DIGIT) - 1)).to(tl.int32)
    found = tl.histogram(digits, 1 << DIGIT, mask=(keys >> DIGIT) == tl.load(least + client))
    tl.atomic_add(counts + client * (1 << DIGIT) + tl.arange(0, 1 << DIGIT), found)  # whole numbers: in any order


@jit
def _count(rows, least, size, row_step, step, larger, equal, WORD: constexpr, BLOCK: constexpr):
    client, places = tl.program_id(1), tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    keys, bound = _keys(rows, size, row_step, step, places, WORD), tl.load(least + client)
    block = client * tl.num_programs(0) + tl.program_id(0)
    tl.store(larger + block, tl.sum((keys > bound).to(tl.int64), 0))
    tl.store(equal + block, tl.sum((keys == bound).to(tl.int64), 0))


@jit
def _write(rows, least, size, row_step, step, equals, larger, equal, values, places, kept,
           WORD: constexpr, BLOCK: constexpr):  # fmt: skip
    client, place = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    keys, bound = _keys(rows, size, row_step, step, place, WORD), tl.load(least + client)
    block = client * tl.num_programs(0) + tl.program_id(0)
    before, wanted = tl.load(equal + block), tl.load(equals + client)
    first = (keys == bound) & (before + tl.cumsum((keys == bound).to(tl.int64), 0) <= wanted)
    taken = (keys > bound) | first
    slot = client * kept + tl.load(larger + block) + tl.minimum(before, wanted) + tl.cumsum(taken.to(tl.int64), 0) - 1
    value = tl.load(rows + client * row_step + place * step, mask=taken, other=0.0)
    tl.store(values + slot, value, mask=taken)
    tl.store(places + slot, place.to(tl.int32), mask=taken)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Updates, many numbers of which are alike."""
    rows = torch.randn(clients, size, generator=chance).mul(8).round().div(8)
    return {"rows": rows, "kept": pieces(size, 4)}


OP = Op(
    pick=top_k,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda rows, kept: rows.nbytes + len(rows) * kept * (rows.element_size() + 4),
    tolerance=0,
    rowwise=("rows",),
)
