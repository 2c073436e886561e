"""What a loss changes with queries, keys and values of sparse attention."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim_kernels.language import constexpr, jit, pieces, tl
from fedsim_kernels.pairs import Pairs, paired, powers_of_2
from fedsim_kernels.tiles import put, tile

TILE = 16
"""Queries that are multiplied with a block at a time, and tokens of a program; a product of matrices wants 16."""


def slopes(
    q: Tensor, k: Tensor, v: Tensor, slope: Tensor, inner: Tensor, sums: Tensor, block: int, seen: Pairs
) -> tuple[Tensor, Tensor, Tensor]:
    """From slopes (Z, T, D) with respect to results, their products with these, and logarithms of sums (Z, T) each.

    A program a piece of the list of those who see a block, then one a few queries, and one a few tokens that are seen.
    """
    (heads, length, width), count = q.shape, len(seen.rows)
    held, wide = powers_of_2(block, width)
    to_q, to_k, to_v = (torch.empty_like(part) for part in (q, k, v))
    to_pairs, (to_keys, to_values) = q.new_empty(count, width), q.new_empty(2, len(seen.tokens), block, width)
    given = slope, inner, sums
    if count:
        keys, values = (part.flatten(0, 1).T.contiguous() for part in (k, v))
        _past[(len(seen.tokens),)](q, k, keys, values, *given, *seen[:5], to_pairs, to_keys, to_values, width**-0.5,
                                   heads * length, count, width, block, TILE, held, wide, num_stages=1)  # fmt: skip
    if q.numel():
        grid, sizes = (heads, pieces(length, block), pieces(block, TILE)), (width**-0.5, length, width, block)
        _queries[grid](q, k, v, *given, seen.queries, to_pairs, to_q, *sizes, TILE, wide)
        _keys[grid](q, k, v, *given, seen.blocks, to_keys, to_values, to_k, to_v, *sizes, TILE, wide)
    return to_q, to_k, to_v


@jit
def _past(q, k, k_t, v_t, slope, inner, sums, rows, places, tokens, begins, ends, to_pairs, to_keys, to_values,
          scale, height, count, width, block, TILE: constexpr, BLOCK: constexpr, WIDTH: constexpr):  # fmt: skip
    """Of a piece of those who see a block: each query's share, and the block's keys' and values'.

    One stage, as what is fetched ahead does not fit into registers.
    """
    piece, token, number = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    at, end = tl.load(tokens + piece), tl.load(ends + piece)
    keys, values = [tile(each + at, number, token, width, block, height, 1) for each in (k_t, v_t)]
    own = tile(k + at * width, token, number, block, width, width, 1)
    keys_slope, values_slope = tl.zeros((BLOCK, WIDTH), tl.float32), tl.zeros((BLOCK, WIDTH), tl.float32)
    for first in range(tl.load(begins + piece), end, TILE):
        row, place = paired(rows, places, first, end, height, count, TILE)
        asked, given = [tile(each, row, number, height, width, width, 1) for each in (q, slope)]
        there = (row < height)[:, None]  # as nobody's zeros times an infinity are NaN
        total, mean = [tl.load(each + row, mask=row < height, other=0.0)[:, None] for each in (sums, inner)]
        weights = tl.where(there, tl.exp(tl.dot(asked, keys, input_precision="ieee") * scale - total), 0.0)
        change = tl.where(there, weights * (tl.dot(given, values, input_precision="ieee") - mean) * scale, 0.0)
        values_slope += tl.dot(tl.trans(weights), given, input_precision="ieee")
        keys_slope += tl.dot(tl.trans(change), asked, input_precision="ieee")
        put(to_pairs, tl.dot(change, own, input_precision="ieee"), place, number, count, width, width, 1)
    put(to_keys + piece * block * width, keys_slope, token, number, block, width, width, 1)
    put(to_values + piece * block * width, values_slope, token, number, block, width, width, 1)


@jit
def _queries(q, k, v, slope, inner, sums, queries, to_pairs, to_q, scale, length, width, block,
             TILE: constexpr, WIDTH: constexpr):  # fmt: skip
    """Of a few queries of a block: what its tokens change, one by one as some are later, and what past blocks did."""
    head, number, begin = tl.program_id(0).to(tl.int64) * length, tl.arange(0, WIDTH), tl.program_id(1) * block
    first, end = begin + tl.program_id(2) * TILE, tl.minimum(begin + block, length)
    query = first + tl.arange(0, TILE)
    asked, given = [tile(each + head * width, query, number, end, width, width, 1) for each in (q, slope)]
    total, mean = [tl.load(each + head + query, mask=query < end, other=0.0) for each in (sums, inner)]
    found = tl.zeros((TILE, WIDTH), tl.float32)
    for token in range(begin, tl.minimum(first + TILE, end)):
        at = (head + token) * width + number
        key, value = [tl.load(each + at, mask=number < width, other=0.0)[None, :] for each in (k, v)]
        weights = tl.exp(tl.sum(asked * key, 1) * scale - total)
        change = weights * (tl.sum(given * value, 1) - mean) * scale
        found += tl.where((token <= query)[:, None], change[:, None] * key, 0.0)
    pair, last = [tl.load(queries + head + query + ahead, mask=query < end, other=0) for ahead in (0, 1)]
    for _ in range(tl.max(last - pair)):
        found += tile(to_pairs, pair, number, last, width, width, 1)
        pair += 1
    put(to_q + head * width, found, query, number, end, width, width, 1)


@jit
def _keys(q, k, v, slope, inner, sums, blocks, to_keys, to_values, to_k, to_v, scale, length, width, block,
          TILE: constexpr, WIDTH: constexpr):  # fmt: skip
    """Of a few tokens of a block: what its queries change, one by one as some are earlier, and what later ones did."""
    head, number, begin = tl.program_id(0).to(tl.int64) * length, tl.arange(0, WIDTH), tl.program_id(1) * block
    first, end = begin + tl.program_id(2) * TILE, tl.minimum(begin + block, length)
    token = first + tl.arange(0, TILE)
    keys, values = [tile(each + head * width, token, number, end, width, width, 1) for each in (k, v)]
    keys_slope, values_slope = tl.zeros((TILE, WIDTH), tl.float32), tl.zeros((TILE, WIDTH), tl.float32)
    for query in range(first, end):
        at = (head + query) * width + number
        asked, given = [tl.load(each + at, mask=number < width, other=0.0)[None, :] for each in (q, slope)]
        weights = tl.exp(tl.sum(keys * asked, 1) * scale - tl.load(sums + head + query))
        change = weights * (tl.sum(values * given, 1) - tl.load(inner + head + query)) * scale
        keys_slope += tl.where((token <= query)[:, None], change[:, None] * asked, 0.0)
        values_slope += tl.where((token <= query)[:, None], weights[:, None] * given, 0.0)
    one = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    for piece in range(tl.load(blocks + one), tl.load(blocks + one + 1)):
        keys_slope += tile(to_keys + piece * block * width, token - begin, number, end - begin, width, width, 1)
        values_slope += tile(to_values + piece * block * width, token - begin, number, end - begin, width, width, 1)
    put(to_k + head * width, keys_slope, token, number, end, width, width, 1)
    put(to_v + head * width, values_slope, token, number, end, width, width, 1)
