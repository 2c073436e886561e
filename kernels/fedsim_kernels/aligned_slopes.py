"""What a loss changes with queries, keys and values of attention to all tokens and to a few blocks of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedsim_kernels.language import constexpr, jit, pieces, tl
from fedsim_kernels.pairs import powers_of_2
from fedsim_kernels.tiles import put, tile

TILE = 32, 16, 4
"""Tokens that a program holds, tokens that these meet at a time, and its warps."""
WIDE = 16, 16, 8
"""Where a token has more than 64 numbers. No larger ones than these fit into registers."""


def fitting(q: Tensor, chosen: Tensor, block: int) -> tuple[tuple[int, int], tuple[Any, ...], int]:
    """Programs, by heads and tiles of tokens; scale and sizes, those of tiles too; a program's warps."""
    heads, length, width = q.shape
    held, met, warps = TILE if width <= 64 else WIDE
    sizes = width**-0.5, length, width, chosen.shape[2], block, held, met, *powers_of_2(width)
    return (heads, pieces(length, held)), sizes, warps


def slopes(
    q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, full: Tensor, part: Tensor, *given: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """From slopes (Z, T, D) with respect to both results; their products with these, logarithms of sums (Z, T); block.

    A program a tile of queries, then one a tile of keys. What a program holds lies as columns.
    """
    *others, block = given
    to_q, to_k, to_v = (torch.empty_like(each) for each in (q, k, v))
    if q.numel():
        q_t, k_t, v_t, full_t, part_t = (each.mT.contiguous() for each in (q, k, v, full, part))
        grid, sizes, warps = fitting(q, chosen, block)
        _queries[grid](q_t, k, v, chosen, full_t, part_t, *others, to_q, *sizes, num_warps=warps, num_stages=1)
        _keys[grid](q, k_t, v_t, chosen, full, part, *others, to_k, to_v, *sizes, num_warps=warps, num_stages=1)
    return to_q, to_k, to_v


@jit
def seen(scores, chosen, query, token, length, blocks, block):
    """Scores as full and as sparse attention see them; queries lie along either axis, and tokens along the other."""
    causal = (token <= query) & (query < length)
    few = tl.load(chosen + query * blocks + token // block, mask=causal, other=0) != 0
    return tl.where(causal, scores, float("-inf")), tl.where(causal & few, scores, float("-inf"))


@jit
def _changes(scores, total, drawn, mean):
    """Weights of a tile, and how much the loss changes with its scores."""
    weights = tl.where(scores == float("-inf"), 0.0, tl.exp(scores - total))
    return weights, weights * (drawn - mean)


@jit
def _line(numbers, head, query, length):
    return tl.load(numbers + head + query, mask=query < length, other=0.0)


@jit
def _queries(q_t, k, v, chosen, full_t, part_t, full_inner, part_inner, full_sum, part_sum, to_q,
             scale, length, width, blocks, block, HELD: constexpr, MET: constexpr, WIDTH: constexpr):  # fmt: skip
    """Of a tile of queries, the last ones first."""
    head, asked = tl.program_id(0).to(tl.int64) * length, (tl.num_programs(1) - 1 - tl.program_id(1)) * HELD
    query, number = asked + tl.arange(0, HELD), tl.arange(0, WIDTH)
    queries, full, part = [tile(each + head * width, number, query, width, length, length, 1)
                           for each in (q_t, full_t, part_t)]  # fmt: skip
    total, fewer, mean, other = [_line(each, head, query, length)[None, :]
                                 for each in (full_sum, part_sum, full_inner, part_inner)]  # fmt: skip
    found = tl.zeros((HELD, WIDTH), tl.float32)
    for read in range(0, tl.minimum(asked + HELD, length), MET):
        token = read + tl.arange(0, MET)
        keys, values = [tile(each + head * width, token, number, length, width, width, 1) for each in (k, v)]
        scores = tl.dot(keys, queries, input_precision="ieee") * scale
        every, few = seen(scores, chosen + head * blocks, query[None, :], token[:, None], length, blocks, block)
        _, change = _changes(every, total, tl.dot(values, full, input_precision="ieee"), mean)
        _, further = _changes(few, fewer, tl.dot(values, part, input_precision="ieee"), other)
        found += tl.dot(tl.trans((change + further) * scale), keys, input_precision="ieee")
    put(to_q + head * width, found, query, number, length, width, width, 1)


@jit
def _keys(q, k_t, v_t, chosen, full, part, full_inner, part_inner, full_sum, part_sum, to_k, to_v,
          scale, length, width, blocks, block, HELD: constexpr, MET: constexpr, WIDTH: constexpr):  # fmt: skip
    """Of a tile of keys and values."""
    head, read = tl.program_id(0).to(tl.int64) * length, tl.program_id(1) * HELD
    token, number = read + tl.arange(0, HELD), tl.arange(0, WIDTH)
    keys, values = [tile(each + head * width, number, token, width, length, length, 1) for each in (k_t, v_t)]
    keys_slope, values_slope = tl.zeros((HELD, WIDTH), tl.float32), tl.zeros((HELD, WIDTH), tl.float32)
    for asked in range(read, length, MET):
        query = asked + tl.arange(0, MET)
        queries, whole, some = [tile(each + head * width, query, number, length, width, width, 1)
                                for each in (q, full, part)]  # fmt: skip
        total, fewer, mean, other = [_line(each, head, query, length)[:, None]
                                     for each in (full_sum, part_sum, full_inner, part_inner)]  # fmt: skip
        scores = tl.dot(queries, keys, input_precision="ieee") * scale
        every, few = seen(scores, chosen + head * blocks, query[:, None], token[None, :], length, blocks, block)
        weights, change = _changes(every, total, tl.dot(whole, values, input_precision="ieee"), mean)
        lighter, further = _changes(few, fewer, tl.dot(some, values, input_precision="ieee"), other)
        values_slope += tl.dot(tl.trans(weights), whole, input_precision="ieee")
        values_slope += tl.dot(tl.trans(lighter), some, input_precision="ieee")
        keys_slope += tl.dot(tl.trans((change + further) * scale), queries, input_precision="ieee")
    put(to_k + head * width, keys_slope, token, number, length, width, width, 1)
    put(to_v + head * width, values_slope, token, number, length, width, width, 1)
