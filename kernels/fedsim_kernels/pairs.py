"""Who sees which block of the past: pairs of a query and a block, by query and by block."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from fedsim_kernels.language import constexpr, jit, tl

PIECE = 512
"""Pairs of a block that are one program's, at most."""


class Pairs(NamedTuple):
    """P pairs of a query and a block that lies before the query's own; tokens are counted over all heads.

    By query they are ordered by head, query and block; by block, by head, block and query, where each block's pairs
    are cut into pieces of `PIECE`, the last of which may be shorter. So a head's are the same beside any others.
    """

    rows: Tensor
    """Each pair's query (P,), by block."""
    places: Tensor
    """Where each stands by query (P,), by block."""
    tokens: Tensor
    """The first token of each piece's block."""
    begins: Tensor
    """Where each piece's pairs begin, by block."""
    ends: Tensor
    """And where they end."""
    queries: Tensor
    """Where each query's pairs begin, by query; at the end P."""
    blocks: Tensor
    """Where each block's pieces begin; at the end their number."""


def pairs(chosen: Tensor, block: int) -> Pairs:
    """Of what is chosen, bool (Z, T, blocks), by T queries of each of Z heads, among blocks of so many tokens."""
    _, length, blocks = chosen.shape
    query, one = (torch.arange(size, device=chosen.device) for size in (length, blocks))
    seen = chosen & (one < query.unsqueeze(1) // block)
    rows, which = seen.flatten(0, 1).nonzero(as_tuple=True)
    places = (rows // length * blocks + which).int().argsort(stable=True)
    by_query, by_block = (_starts(seen.sum(dim).flatten()) for dim in (2, 1))
    first = _starts(-(-by_block.diff() // PIECE))
    owner = torch.repeat_interleave(first.diff())
    begins = by_block[owner] + (torch.arange(len(owner), device=owner.device) - first[owner]) * PIECE
    ends = by_block[owner + 1].minimum(begins + PIECE)
    return Pairs(rows[places], places, owner // blocks * length + owner % blocks * block, begins, ends, by_query, first)


def _starts(counts: Tensor) -> Tensor:
    """Where each begins if one follows the other; at the end where the last ends."""
    return pad(counts.cumsum(0), (1, 0))


@jit
def paired(rows, places, first, end, height, count, TILE: constexpr):
    """A tile of pairs, by block: queries and places; beyond the piece's end `height` and `count`."""
    pair = first + tl.arange(0, TILE)
    return (tl.load(rows + pair, mask=pair < end, other=height),
            tl.load(places + pair, mask=pair < end, other=count))  # fmt: skip


def powers_of_2(*sizes: int) -> list[int]:
    """What holds so much, and at least 16, as a product of matrices wants.

    >>> powers_of_2(5, 64, 65)
    [16, 64, 128]
    """
    return [max(16, 1 << (size - 1).bit_length()) for size in sizes]
