"""Causal attention to all tokens and to a few blocks of them, and how far the two are apart: SSA (2511.20102)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import smooth_l1_loss

from fedsim_kernels import sparse_attention as sparse
from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

TILE = 16
"""Queries, and keys, that are multiplied at a time; a product of matrices wants 16."""
WARPS = 8
"""Of a program: with four, what it adds up does not fit into registers."""

Both = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def aligned_attention(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, chosen: Tensor, block: int) -> Both:
    """Both attentions of the same queries, keys and values, from one product of queries and keys.

    Args:
        q: (Z, T, D), as k and v; Z are heads of sequences.
        k: keys.
        v: values.
        gate: (Z, T), what both outputs are multiplied by before they are compared.
        chosen: bool (Z, T, blocks), with each query's own block among them; see `sparse_attention`.
        block: tokens in a block; the last may be shorter.

    Returns:
        Full and sparse attention's outputs (Z, T, D), not gated. Then (Z, T) each: their alignment, the mean over D of
        two smooth L1 distances, in each of which one output stands still and the other is drawn to it; and, without
        gradients, the weight of full attention that sparse attention does not see, and the entropy of that weight in
        nats. Nothing of size T^2 is made.
    """
    return picked(kernel, reference, q, stacks=True)(q, k, v, gate, chosen, block)


def reference(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, chosen: Tensor, block: int) -> Both:
    """In plain torch, by masks: all pairs of tokens."""
    length = q.shape[1]
    seen = chosen.repeat_interleave(block, dim=2)[..., :length].tril()
    causal = torch.ones_like(seen).tril()
    scores = q @ k.mT / q.shape[2] ** 0.5
    weights, few = (scores.masked_fill(~mask, -torch.inf).softmax(-1) for mask in (causal, seen))
    full, part = (
        (each.unsqueeze(-1) * v.unsqueeze(1)).masked_fill(~causal.unsqueeze(-1), 0).sum(2) for each in (weights, few)
    )
    one, other = gate.unsqueeze(2) * full, gate.unsqueeze(2) * part
    pulled = smooth_l1_loss(one, other.detach(), reduction="none")
    pulling = smooth_l1_loss(one.detach(), other, reduction="none")
    told = weights.detach()
    apart = (pulled + pulling).mean(2)
    return full, part, apart, (told * ~seen).sum(2), torch.special.entr(told).sum(2)


def kernel(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, chosen: Tensor, block: int) -> Both:
    """A program a tile of queries, with two running softmaxes; backward also one a tile of keys, in one order.

    `torch.vmap` and `torch.func.grad` see through it: heads of a stack are more heads.
    """
    return _AlignedAttention.apply(q, k, v, gate, chosen, block)[:5]  # pyright: ignore[reportOptionalSubscript]


class _Heads(torch.autograd.Function):
    """A function of tensors (Z, ...), and a number at the end, to such tensors."""

    @classmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, info: Any, dims: tuple[int | None, ...], *given: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Over a stack of (Z, ...), as one of them."""
        *tensors, block = given
        stacks = (each.expand(info.batch_size, *each.shape) if dim is None else each.movedim(dim, 0)
                  for each, dim in zip(tensors, dims, strict=False))  # fmt: skip
        found: Any = cls.apply(*(stack.flatten(0, 1) for stack in stacks), block)
        return tuple(each.unflatten(0, (info.batch_size, -1)) for each in found), (0,) * len(found)


class _AlignedAttention(_Heads):
    @staticmethod
    def forward(*given: Any) -> tuple[Tensor, ...]:
        *tensors, block = given
        q, k, v, gate, chosen = (each.contiguous() for each in tensors)
        full, part = torch.empty_like(q), torch.empty_like(q)
        apart, dropped, entropy, full_sum, part_sum = (torch.empty_like(gate) for _ in range(5))
        if full.numel():
            _forward[_grid(q)](q, k, v, gate, chosen, full, part, apart, dropped, entropy, full_sum, part_sum,
                               *_sizes(q, chosen, block), num_warps=WARPS)  # fmt: skip
        return full, part, apart, dropped, entropy, full_sum, part_sum

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        full, part, _, *silent = output
        ctx.save_for_backward(*inputs[:5], full, part, *silent[2:])
        ctx.block = inputs[5]
        ctx.mark_non_differentiable(*silent)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, gate, chosen, full, part, *sums = ctx.saved_tensors
        apart, own = full - part, gate.unsqueeze(2)
        pull = (own * apart).clamp(-1, 1) * (slopes[2] / q.shape[2]).unsqueeze(2)
        wanted = slopes[0] + own * pull, slopes[1] - own * pull
        inner = (wanted[0] * full).sum(2), (wanted[1] * part).sum(2)
        to_inputs: Any = _Slopes.apply(q, k, v, chosen, *wanted, *inner, *sums, ctx.block)
        return *to_inputs, (pull * apart).sum(2), None, None


class _Slopes(_Heads):
    @staticmethod
    def forward(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
        *tensors, block = given
        q, k, v, chosen, *others = (each.contiguous() for each in tensors)
        to_q, to_k, to_v = (torch.zeros_like(each) for each in (q, k, v))
        if q.numel():
            sizes = _sizes(q, chosen, block)
            _queries[_grid(q)](q, k, v, chosen, *others, to_q, *sizes, num_warps=WARPS)
            _keys[_grid(q)](q, k, v, chosen, *others, to_k, to_v, *sizes, num_warps=WARPS, num_stages=1)
        return to_q, to_k, to_v

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing is kept, as there are no second derivatives: who asks for them is told."""


def _grid(q: Tensor) -> tuple[int, int]:
    return len(q), pieces(q.shape[1], TILE)


def _sizes(q: Tensor, chosen: Tensor, block: int) -> tuple[Any, ...]:
    """Scale, tokens, numbers, blocks, tokens in a block; a tile's tokens, and the power of 2 that holds a token."""
    _, length, width = q.shape
    return width**-0.5, length, width, chosen.shape[2], block, TILE, max(16, 1 << (width - 1).bit_length())


@jit
def _tile(rows, head, first, length, width, TILE: constexpr, WIDTH: constexpr):
    """Tokens (TILE, WIDTH) from `first` on; 0 beyond."""
    tokens, numbers = first + tl.arange(0, TILE), tl.arange(0, WIDTH)
    places = (head * length + tokens)[:, None] * width + numbers[None, :]
    return tl.load(rows + places, mask=(tokens < length)[:, None] & (numbers < width)[None, :], other=0.0)


@jit
def _line(numbers, head, first, length, TILE: constexpr):
    """A number of each token from `first` on; 0 beyond."""
    tokens = first + tl.arange(0, TILE)
    return tl.load(numbers + head * length + tokens, mask=tokens < length, other=0.0)


@jit
def _scores(queries, keys, chosen, head, asked, read, scale, length, blocks, block, TILE: constexpr):
    """Of a tile of queries from `asked` and keys from `read`: scores, as full and as sparse attention sees them."""
    query, token = asked + tl.arange(0, TILE)[:, None], read + tl.arange(0, TILE)[None, :]
    causal = (token <= query) & (query < length)
    seen = tl.load(chosen + (head * length + query) * blocks + token // block, mask=causal, other=0) != 0
    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
    return tl.where(causal, scores, float("-inf")), tl.where(causal & seen, scores, float("-inf"))


@jit
def _softmax(scores, highest, total):
    """One more tile of scores: parts, what is left of the parts before, the highest score and the sum of all parts."""
    higher = tl.maximum(highest, tl.max(scores, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)  # as nothing may have been seen yet
    parts, kept = tl.exp(scores - base[:, None]), tl.exp(highest - base)
    return parts, kept, higher, total * kept + tl.sum(parts, 1)


@jit
def _mixed(parts, values, asked, read, TILE: constexpr):
    """Parts times values; where a query and later tokens share a tile, it does not meet what they hold."""
    if asked == read:
        past = tl.arange(0, TILE)[:, None] >= tl.arange(0, TILE)[None, :]
        mixed = tl.sum(tl.where(past[:, :, None], parts[:, :, None] * values[None, :, :], 0.0), 1)
    else:
        mixed = tl.dot(parts, values, input_precision="ieee")
    return mixed


@jit
def _forward(q, k, v, gate, chosen, full, part, apart, dropped, entropy, full_sum, part_sum,
             scale, length, width, blocks, block, TILE: constexpr, WIDTH: constexpr):  # fmt: skip
    head, asked = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE
    queries, nothing = _tile(q, head, asked, length, width, TILE, WIDTH), tl.zeros((TILE,), tl.float32)
    full_high, part_high = nothing + float("-inf"), nothing + float("-inf")
    full_total, part_total, unseen, heard = nothing, nothing, nothing, nothing
    full_mixed, part_mixed = tl.zeros((TILE, WIDTH), tl.float32), tl.zeros((TILE, WIDTH), tl.float32)
    for read in range(0, asked + TILE, TILE):
        keys, values = (
            _tile(k, head, read, length, width, TILE, WIDTH),
            _tile(v, head, read, length, width, TILE, WIDTH),
        )
        every, few = _scores(queries, keys, chosen, head, asked, read, scale, length, blocks, block, TILE)
        parts, kept, full_high, full_total = _softmax(every, full_high, full_total)
        full_mixed = full_mixed * kept[:, None] + _mixed(parts, values, asked, read, TILE)
        unseen = unseen * kept + tl.sum(tl.where(few == every, 0.0, parts), 1)
        heard = heard * kept + tl.sum(tl.where(every == float("-inf"), 0.0, parts * every), 1)
        parts, kept, part_high, part_total = _softmax(few, part_high, part_total)
        part_mixed = part_mixed * kept[:, None] + _mixed(parts, values, asked, read, TILE)
    tokens, numbers = asked + tl.arange(0, TILE), tl.arange(0, WIDTH)
    whole, some = full_mixed / full_total[:, None], part_mixed / part_total[:, None]
    inside, place = tokens < length, head * length + tokens
    own = _line(gate, head, asked, length, TILE)[:, None]
    between = tl.abs(own * whole - own * some)
    bent = tl.where(between < 1, between * between, 2 * between - 1)  # both distances are the same
    tl.store(full + place[:, None] * width + numbers[None, :], whole, mask=inside[:, None] & (numbers < width)[None, :])
    tl.store(part + place[:, None] * width + numbers[None, :], some, mask=inside[:, None] & (numbers < width)[None, :])
    tl.store(apart + place, tl.sum(tl.where((numbers < width)[None, :], bent, 0.0), 1) / width, mask=inside)
    tl.store(dropped + place, unseen / full_total, mask=inside)
    tl.store(entropy + place, full_high + tl.log(full_total) - heard / full_total, mask=inside)
    tl.store(full_sum + place, full_high + tl.log(full_total), mask=inside)
    tl.store(part_sum + place, part_high + tl.log(part_total), mask=inside)


@jit
def _changes(scores, sums, to_out, inner, values):
    """Weights of a tile, and how much the loss changes with its scores."""
    weights = tl.where(scores == float("-inf"), 0.0, tl.exp(scores - sums[:, None]))
    return weights, weights * (tl.dot(to_out, tl.trans(values), input_precision="ieee") - inner[:, None])


@jit
def _slopes(q, k, v, chosen, to_full, to_part, full_inner, part_inner, full_sum, part_sum, head, asked, read,
            scale, length, width, blocks, block, TILE: constexpr, WIDTH: constexpr):  # fmt: skip
    """Of a tile of queries and one of keys: both attentions' weights and what is wanted of their outputs, and the
    change with the scores of both."""
    queries, keys = _tile(q, head, asked, length, width, TILE, WIDTH), _tile(k, head, read, length, width, TILE, WIDTH)
    values = _tile(v, head, read, length, width, TILE, WIDTH)
    every, few = _scores(queries, keys, chosen, head, asked, read, scale, length, blocks, block, TILE)
    full, part = (_tile(to_full, head, asked, length, width, TILE, WIDTH),
                  _tile(to_part, head, asked, length, width, TILE, WIDTH))  # fmt: skip
    whole, change = _changes(every, _line(full_sum, head, asked, length, TILE), full,
                             _line(full_inner, head, asked, length, TILE), values)  # fmt: skip
    some, further = _changes(few, _line(part_sum, head, asked, length, TILE), part,
                             _line(part_inner, head, asked, length, TILE), values)  # fmt: skip
    return queries, keys, whole, full, some, part, (change + further) * scale


@jit
def _queries(q, k, v, chosen, to_full, to_part, full_inner, part_inner, full_sum, part_sum, to_q,
             scale, length, width, blocks, block, TILE: constexpr, WIDTH: constexpr):  # fmt: skip
    head, asked = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE
    found = tl.zeros((TILE, WIDTH), tl.float32)
    for read in range(0, asked + TILE, TILE):
        _, keys, _, _, _, _, change = _slopes(
            q, k, v, chosen, to_full, to_part, full_inner, part_inner, full_sum, part_sum, head, asked, read,
            scale, length, width, blocks, block, TILE, WIDTH)  # fmt: skip
        found += tl.dot(change, keys, input_precision="ieee")
    _put(to_q, found, head, asked, length, width, TILE, WIDTH)


@jit
def _keys(q, k, v, chosen, to_full, to_part, full_inner, part_inner, full_sum, part_sum, to_k, to_v,
          scale, length, width, blocks, block, TILE: constexpr, WIDTH: constexpr):  # fmt: skip
    head, read = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE
    keys_slope, values_slope = tl.zeros((TILE, WIDTH), tl.float32), tl.zeros((TILE, WIDTH), tl.float32)
    for asked in range(read, length, TILE):
        queries, _, whole, full, some, part, change = _slopes(
            q, k, v, chosen, to_full, to_part, full_inner, part_inner, full_sum, part_sum, head, asked, read,
            scale, length, width, blocks, block, TILE, WIDTH)  # fmt: skip
        keys_slope += tl.dot(tl.trans(change), queries, input_precision="ieee")
        values_slope += tl.dot(tl.trans(whole), full, input_precision="ieee")
        values_slope += tl.dot(tl.trans(some), part, input_precision="ieee")
    _put(to_k, keys_slope, head, read, length, width, TILE, WIDTH)
    _put(to_v, values_slope, head, read, length, width, TILE, WIDTH)


@jit
def _put(rows, numbers, head, first, length, width, TILE: constexpr, WIDTH: constexpr):
    """Stores a tile of tokens."""
    tokens, places = first + tl.arange(0, TILE), tl.arange(0, WIDTH)
    inside = (tokens < length)[:, None] & (places < width)[None, :]
    tl.store(rows + (head * length + tokens)[:, None] * width + places[None, :], numbers, mask=inside)


def inputs(heads: int, size: int, chance: Generator) -> Inputs:
    """What `sparse_attention` is tried on, and gates."""
    given = sparse.inputs(heads, size, chance)
    return {**given, "gate": torch.rand(given["q"].shape[:2], generator=chance)}


OP = Op(
    pick=aligned_attention,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda q, k, v, gate, chosen, block: 5 * q.nbytes + 4 * gate.nbytes + chosen.nbytes,
    flops=lambda q, k, v, gate, chosen, block: 3 * q.numel() * q.shape[1],
    differentiable=("q", "k", "v", "gate"),
    tolerance=2**-18,
    rowwise=("q", "k", "v", "gate", "chosen"),
    timed=(8, 64 * 2048),
)
