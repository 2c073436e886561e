"""Causal attention to a few blocks of tokens for each query, and its gradients: SSA's sparse branch."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op, Rival
from fedsim_kernels.pairs import Pairs, paired, pairs, powers_of_2
from fedsim_kernels.sparse_slopes import slopes
from fedsim_kernels.tiles import put, tile

TILE = 16
"""Queries that are multiplied with a block at a time, and those of a program; a product of matrices wants 16."""
HELD = 64 * 64
"""Numbers of a block's keys that a program holds; a larger one is halved, as the same queries see both halves."""


def sparse_attention(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, block: int) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over what each query sees: tokens not after it, in blocks chosen for it.

    Args:
        q: (Z, T, D), as k and v; Z are heads of sequences.
        k: keys.
        v: values.
        chosen: bool (Z, T, blocks), with each query's own block among them.
        block: tokens in a block; the last may be shorter.

    Returns:
        (Z, T, D), differentiable. What is not seen is not read: it costs nothing, and an infinity there does no harm.
    """
    return picked(kernel, reference, q)(q, k, v, chosen, block)


def reference(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, block: int) -> Tensor:
    """In plain torch, by masks: all pairs of tokens. Blocks of the past are seen as a whole, the own token by token."""
    length, missing = q.shape[1], -q.shape[1] % block
    seen = chosen.repeat_interleave(block, dim=2)[..., :length].tril()
    weights = (q @ k.mT / q.shape[2] ** 0.5).masked_fill(~seen, -torch.inf).softmax(-1)
    parts = pad(weights, (0, missing, 0, missing)).unflatten(2, (-1, block)).unflatten(1, (-1, block))
    values = pad(v, (0, 0, 0, missing)).unflatten(1, (-1, block))
    blocks, tokens = (torch.ones(size, size, dtype=torch.bool, device=q.device) for size in (chosen.shape[2], block))
    past = pad(chosen, (0, 0, 0, missing)).unflatten(1, (-1, block)) & blocks.tril(-1).unsqueeze(1)
    mixed = torch.einsum("zaibj,zbjd->zaibd", parts, values).masked_fill(~past.unsqueeze(4), 0).sum(3)
    own = parts.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).unsqueeze(4) * values.unsqueeze(2)
    return (mixed + own.masked_fill(~tokens.tril().unsqueeze(2), 0).sum(3)).flatten(1, 2)[:, :length]


def kernel(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, block: int) -> Tensor:
    """A program a piece of the list of those who see a block, then one a few queries, which adds up what they see.

    So a block is read by each piece of its list, and not by each query in it. In memory that takes D + 2 numbers for
    each query and each block of the past that it sees, and two places until gradients are known; these take D numbers
    for each of them, and 2 D for each piece and token of its block.
    """
    while prod(powers_of_2(block, q.shape[2])) > HELD and block % 2 == 0:
        chosen, block = chosen.repeat_interleave(2, dim=2), block // 2
    chosen = chosen[..., : pieces(q.shape[1], block)]
    return _SparseAttention.apply(q, k, v, chosen, block)  # pyright: ignore[reportReturnType]


class _SparseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, block: int) -> Tensor:
        q, k, v = (part.contiguous() for part in (q, k, v))
        seen, ctx.block = pairs(chosen, block), block
        out, sums = attended(q, k, v, block, seen)
        ctx.save_for_backward(q, k, v, out, sums, *seen)
        return out

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        (q, k, v, out, sums, *seen), slope = ctx.saved_tensors, given[0].contiguous()
        return *slopes(q, k, v, slope, (slope * out).sum(2), sums, ctx.block, Pairs(*seen)), None, None


def attended(q: Tensor, k: Tensor, v: Tensor, block: int, seen: Pairs) -> tuple[Tensor, Tensor]:
    """What comes out, and (Z, T) the logarithm of each query's sum of exponentials."""
    (heads, length, width), count = q.shape, len(seen.rows)
    held, wide = powers_of_2(block, width)
    mixed, highs, totals = q.new_empty(count, width), q.new_empty(count), q.new_empty(count)
    out, sums = torch.empty_like(q), q.new_empty(heads, length)
    if count:
        _past[(len(seen.tokens),)](q, k.flatten(0, 1).T.contiguous(), v, *seen[:5], mixed, highs, totals, width**-0.5,
                                   heads * length, count, width, block, TILE, held, wide)  # fmt: skip
    if out.numel():
        _forward[(heads, pieces(length, block), pieces(block, TILE))](
            q, k, v, seen.queries, mixed, highs, totals, out, sums, width**-0.5, length, width, block,
            TILE, wide)  # fmt: skip
    return out, sums


@jit
def _past(q, k_t, v, rows, places, tokens, begins, ends, mixed, highs, totals, scale, height, count, width, block,
          TILE: constexpr, BLOCK: constexpr, WIDTH: constexpr):  # fmt: skip
    """Of a piece of those who see a block: parts times values, the highest score, and the sum of parts.

    Keys lie as columns, as threads side by side read a row of a product's second matrix, in other banks each.
    """
    piece, token, number = tl.program_id(0), tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    at, end = tl.load(tokens + piece), tl.load(ends + piece)
    keys = tile(k_t + at, number, token, width, block, height, 1)
    values = tile(v + at * width, token, number, block, width, width, 1)
    for first in range(tl.load(begins + piece), end, TILE):
        row, place = paired(rows, places, first, end, height, count, TILE)
        asked = tile(q, row, number, height, width, width, 1)
        scores = tl.dot(asked, keys, input_precision="ieee") * scale
        scores = tl.where((token < block)[None, :], scores, float("-inf"))
        high = tl.max(scores, 1)
        parts = tl.exp(scores - tl.where(high == float("-inf"), 0.0, high)[:, None])  # as all may be so low
        put(mixed, tl.dot(parts, values, input_precision="ieee"), place, number, count, width, width, 1)
        tl.store(highs + place, high, mask=place < count)
        tl.store(totals + place, tl.sum(parts, 1), mask=place < count)


@jit
def _with(mixed, highest, total, there, further, high, more):
    """What queries have gathered, and what is added to those of them for whom there is more."""
    higher = tl.maximum(highest, tl.where(there, high, float("-inf")))
    base = tl.where(higher == float("-inf"), 0.0, higher)
    kept, grown = tl.exp(highest - base), tl.where(there, tl.exp(high - base), 0.0)
    further = tl.where(there[:, None], further * grown[:, None], 0.0)
    return mixed * kept[:, None] + further, higher, total * kept + more * grown


@jit
def _forward(q, k, v, queries, mixed, highs, totals, out, sums, scale, length, width, block,
             TILE: constexpr, WIDTH: constexpr):  # fmt: skip
    """Of a few queries of a block: softmax over its tokens, one by one as some are later, and over earlier blocks."""
    head, number, begin = tl.program_id(0).to(tl.int64) * length, tl.arange(0, WIDTH), tl.program_id(1) * block
    first, end = begin + tl.program_id(2) * TILE, tl.minimum(begin + block, length)
    query = first + tl.arange(0, TILE)
    asked = tile(q + head * width, query, number, end, width, width, 1)
    found, total = tl.zeros((TILE, WIDTH), tl.float32), tl.zeros((TILE,), tl.float32)
    highest = total + float("-inf")
    for token in range(begin, tl.minimum(first + TILE, end)):
        at = (head + token) * width + number
        key, value = [tl.load(each + at, mask=number < width, other=0.0)[None, :] for each in (k, v)]
        scores = tl.sum(asked * key, 1) * scale
        found, highest, total = _with(found, highest, total, token <= query, value, scores, 1.0)
    pair, last = [tl.load(queries + head + query + ahead, mask=query < end, other=0) for ahead in (0, 1)]
    for _ in range(tl.max(last - pair)):
        there = pair < last
        further = tile(mixed, pair, number, last, width, width, 1)
        high, more = tl.load(highs + pair, mask=there, other=0.0), tl.load(totals + pair, mask=there, other=0.0)
        found, highest, total = _with(found, highest, total, there, further, high, more)
        pair += 1
    put(out + head * width, found / total[:, None], query, number, end, width, width, 1)
    tl.store(sums + head + query, highest + tl.log(total), mask=query < end)


def dense(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, block: int) -> Tensor:
    """Torch's own attention to all tokens that are not after a query."""
    q, k, v = (part.unsqueeze(0) for part in (q, k, v))
    return scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(0)


def flops(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, block: int) -> int:
    """Two products for each token that is seen: of the own blocks half of them."""
    tokens = block * (len(pairs(chosen, block).rows) + q.shape[0] * q.shape[1] // 2)
    return 4 * q.shape[2] * tokens


def inputs(heads: int, size: int, chance: Generator) -> Inputs:
    """Up to 22 tokens of 5 numbers in blocks of 3, half seen; from a size of 4000 on of 64 in blocks of 64, a tenth."""
    length, width, block = (size // 64, 64, 64) if size >= 4000 else (size % 23, 5, 3)
    q, k, v = (torch.randn(heads, length, width, generator=chance) for _ in range(3))
    blocks = -(-length // block)
    own = torch.arange(length).unsqueeze(1) // block == torch.arange(blocks)
    chosen = (torch.rand(heads, length, blocks, generator=chance) < (0.1 if size >= 4000 else 0.5)) | own
    return {"q": q, "k": k, "v": v, "chosen": chosen, "block": block}


OP = Op(
    pick=sparse_attention,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda q, k, v, chosen, block: 4 * q.nbytes + chosen.nbytes,
    flops=flops,
    rival=Rival("dense attention", dense, 2.0),
    differentiable=("q", "k", "v"),
    tolerance=2**-18,
    rowwise=("q", "k", "v", "chosen"),
    timed=(2, 64 * 2**15),
)
