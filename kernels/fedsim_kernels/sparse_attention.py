"""Causal attention to a few blocks of tokens for each query, and its gradients: SSA's sparse branch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from fedsim_kernels.language import constexpr, jit, picked, tl
from fedsim_kernels.op import Inputs, Op


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
    """In plain torch, by masks: all pairs of tokens."""
    length = q.shape[1]
    seen = chosen.repeat_interleave(block, dim=2)[..., :length].tril()
    weights = (q @ k.mT / q.shape[2] ** 0.5).masked_fill(~seen, -torch.inf).softmax(-1)
    return (weights.unsqueeze(-1) * v.unsqueeze(1)).masked_fill(~seen.unsqueeze(-1), 0).sum(2)


def kernel(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, block: int) -> Tensor:
    """A program a query, with a running softmax; backward one a query, and one a block of keys, in one order."""
    return _SparseAttention.apply(q, k, v, chosen, block)  # pyright: ignore[reportReturnType]


class _SparseAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, block: int) -> Tensor:
        q, k, v, chosen = (part.contiguous() for part in (q, k, v, chosen))
        out, sums = torch.empty_like(q), q.new_empty(q.shape[:2])
        ctx.block = block
        if out.numel():
            _forward[q.shape[:2]](q, k, v, chosen, out, sums, *_sizes(q, chosen, block))
        ctx.save_for_backward(q, k, v, chosen, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        (q, k, v, chosen, out, sums), slope = ctx.saved_tensors, slopes[0].contiguous()
        inner, sizes = (slope * out).sum(2), _sizes(q, chosen, ctx.block)
        to_q, to_k, to_v = (torch.zeros_like(part) for part in (q, k, v))
        if out.numel():
            _queries[q.shape[:2]](q, k, v, chosen, slope, inner, sums, to_q, *sizes)
            _keys[len(q), chosen.shape[2]](q, k, v, chosen, slope, inner, sums, to_k, to_v, *sizes)
        return to_q, to_k, to_v, None, None


def _sizes(q: Tensor, chosen: Tensor, block: int) -> tuple[Any, ...]:
    """Scale, tokens, numbers, blocks, tokens in a block; and the powers of 2 that hold a block and a token."""
    _, length, width = q.shape
    powers = (1 << max(0, (size - 1).bit_length()) for size in (block, width))
    return width**-0.5, length, width, chosen.shape[2], block, *powers


@jit
def _scores(q, k, v, head, query, first, scale, length, width, block, BLOCK: constexpr, WIDTH: constexpr):
    """Of a query and a block of keys that begins at `first`: scores, keys, values and which of them it sees."""
    tokens, numbers = first + tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    seen = (tokens < first + block) & (tokens <= query)
    inside = seen[:, None] & (numbers < width)[None, :]
    places = (head * length + tokens)[:, None] * width + numbers[None, :]
    keys, values = tl.load(k + places, mask=inside, other=0.0), tl.load(v + places, mask=inside, other=0.0)
    asked = tl.load(q + (head * length + query) * width + numbers, mask=numbers < width, other=0.0)
    dots = tl.sum(tl.where(inside, keys * asked[None, :], 0.0), 1) * scale
    return tl.where(seen, dots, float("-inf")), keys, values, seen


@jit
def _forward(q, k, v, chosen, out, sums, scale, length, width, blocks, block, BLOCK: constexpr, WIDTH: constexpr):
    head, query, numbers = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, WIDTH)
    highest, total = float("-inf"), 0.0
    mixed = tl.zeros((WIDTH,), tl.float32)
    for one in range(query // block + 1):
        if tl.load(chosen + (head * length + query) * blocks + one) != 0:
            scores, _, values, _ = _scores(q, k, v, head, query, one * block, scale, length, width, block, BLOCK, WIDTH)
            higher = tl.maximum(highest, tl.max(scores, 0))
            kept, parts = tl.exp(highest - higher), tl.exp(scores - higher)
            total = total * kept + tl.sum(parts, 0)
            mixed = mixed * kept + tl.sum(parts[:, None] * values, 0)
            highest = higher
    place = head * length + query
    tl.store(out + place * width + numbers, mixed / total, mask=numbers < width)
    tl.store(sums + place, highest + tl.log(total))


@jit
def _queries(q, k, v, chosen, slope, inner, sums, to_q, scale, length, width, blocks, block,
             BLOCK: constexpr, WIDTH: constexpr):  # fmt: skip
    head, query, numbers = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, WIDTH)
    place = head * length + query
    given = tl.load(slope + place * width + numbers, mask=numbers < width, other=0.0)
    found = tl.zeros((WIDTH,), tl.float32)
    for one in range(query // block + 1):
        if tl.load(chosen + place * blocks + one) != 0:
            scores, keys, values, seen = _scores(q, k, v, head, query, one * block, scale, length, width, block,
                                                 BLOCK, WIDTH)  # fmt: skip
            weights = tl.exp(scores - tl.load(sums + place))
            change = weights * (tl.sum(values * given[None, :], 1) - tl.load(inner + place))
            found += tl.sum(tl.where(seen, change, 0.0)[:, None] * keys, 0) * scale
    tl.store(to_q + place * width + numbers, found, mask=numbers < width)


@jit
def _keys(q, k, v, chosen, slope, inner, sums, to_k, to_v, scale, length, width, blocks, block,
          BLOCK: constexpr, WIDTH: constexpr):  # fmt: skip
    head, one, numbers = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, WIDTH)
    keys_slope, values_slope = tl.zeros((BLOCK, WIDTH), tl.float32), tl.zeros((BLOCK, WIDTH), tl.float32)
    for query in range(one * block, length):
        place = head * length + query
        if tl.load(chosen + place * blocks + one) != 0:
            scores, _, values, seen = _scores(q, k, v, head, query, one * block, scale, length, width, block,
                                              BLOCK, WIDTH)  # fmt: skip
            given = tl.load(slope + place * width + numbers, mask=numbers < width, other=0.0)
            asked = tl.load(q + place * width + numbers, mask=numbers < width, other=0.0)
            weights = tl.exp(scores - tl.load(sums + place))
            change = weights * (tl.sum(values * given[None, :], 1) - tl.load(inner + place))
            values_slope += tl.where(seen, weights, 0.0)[:, None] * given[None, :]
            keys_slope += tl.where(seen, change, 0.0)[:, None] * asked[None, :] * scale
    tokens = one * block + tl.arange(0, BLOCK)
    places = (head * length + tokens)[:, None] * width + numbers[None, :]
    inside = ((tokens < length) & (tokens < (one + 1) * block))[:, None] & (numbers < width)[None, :]
    tl.store(to_k + places, keys_slope, mask=inside)
    tl.store(to_v + places, values_slope, mask=inside)


def inputs(heads: int, size: int, chance: Generator) -> Inputs:
    """Up to 22 tokens of 5 numbers in blocks of 3, half seen; from a size of 4000 on of 64 in blocks of 16, a tenth."""
    length, width, block = (size // 64, 64, 16) if size >= 4000 else (size % 23, 5, 3)
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
    differentiable=("q", "k", "v"),
    tolerance=2**-18,
    rowwise=("q", "k", "v", "chosen"),
    timed=(8, 64 * 2048),
)
