"""Causal attention to all tokens and to a few blocks of them, and how far the two are apart: SSA (2511.20102)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import smooth_l1_loss

from fedsim_kernels import sparse_attention as sparse
from fedsim_kernels.aligned_slopes import fitting, seen, slopes
from fedsim_kernels.language import constexpr, jit, picked, tl
from fedsim_kernels.op import Inputs, Op
from fedsim_kernels.tiles import put, tile

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
            grid, sizes, warps = fitting(q, chosen, block)
            _forward[grid](q.mT.contiguous(), k, k.mT.contiguous(), v, gate, chosen, full, part, apart, dropped,
                           entropy, full_sum, part_sum, *sizes, num_warps=warps, num_stages=2)  # fmt: skip
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
        return slopes(*(each.contiguous() for each in tensors), block)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Nothing is kept, as there are no second derivatives: who asks for them is told."""


@jit
def _softmax(scores, highest, total):
    """One more tile of scores: parts, what is left of the parts before, the highest score and the sum of all parts."""
    higher = tl.maximum(highest, tl.max(scores, 0))
    base = tl.where(higher == float("-inf"), 0.0, higher)  # as nothing may have been seen yet
    parts, kept = tl.exp(scores - base[None, :]), tl.exp(highest - base)
    return parts, kept, higher, total * kept + tl.sum(parts, 0)


@jit
def _forward(q_t, k, k_t, v, gate, chosen, full, part, apart, dropped, entropy, full_sum, part_sum,
             scale, length, width, blocks, block, HELD: constexpr, MET: constexpr, WIDTH: constexpr):  # fmt: skip
    """Of a tile of queries, as columns; the last ones first, as these see most.

    Whole tiles of tokens leave out what is not finite among those that the queries are of. That comes at last, token by
    token: what is not finite must not reach earlier queries, not even times 0.
    """
    head, asked = tl.program_id(0).to(tl.int64) * length, (tl.num_programs(1) - 1 - tl.program_id(1)) * HELD
    query, number, nothing = asked + tl.arange(0, HELD), tl.arange(0, WIDTH), tl.zeros((HELD,), tl.float32)
    seeing, end = chosen + head * blocks, tl.minimum(asked + HELD, length)
    queries = tile(q_t + head * width, number, query, width, length, length, 1)
    full_high, part_high = nothing + float("-inf"), nothing + float("-inf")
    full_total, part_total, unseen, heard = nothing, nothing, nothing, nothing
    full_mixed, part_mixed = tl.zeros((WIDTH, HELD), tl.float32), tl.zeros((WIDTH, HELD), tl.float32)
    for read in range(0, end, MET):
        token = read + tl.arange(0, MET)
        keys = tl.trans(tile(k_t + head * width, number, token, width, length, length, 1))
        values = tile(v + head * width, token, number, length, width, width, 1)
        scores = tl.dot(keys, queries, input_precision="ieee") * scale
        every, few = seen(scores, seeing, query[None, :], token[:, None], length, blocks, block)
        parts, kept, full_high, full_total = _softmax(every, full_high, full_total)
        fewer, left, part_high, part_total = _softmax(few, part_high, part_total)
        unseen = unseen * kept + tl.sum(tl.where(few == every, 0.0, parts), 0)
        heard = heard * kept + tl.sum(tl.where(every == float("-inf"), 0.0, parts * every), 0)
        values = tl.trans(tl.where((read < asked) | (tl.abs(values) < float("inf")), values, 0.0))
        full_mixed = tl.dot(values, parts, full_mixed * kept[None, :], input_precision="ieee")
        part_mixed = tl.dot(values, fewer, part_mixed * left[None, :], input_precision="ieee")
    own = tile(v + head * width, query, number, length, width, width, 1)
    for token in range(asked, tl.where(tl.sum(own * 0.0) == 0, asked, end)):
        at, past = (head + token) * width + number, (token <= query)[None, :]
        key, value = [tl.load(each + at, mask=number < width, other=0.0)[:, None] for each in (k, v)]
        queries = tile(q_t + head * width, number, query, width, length, length, 1)
        scores = tl.sum(queries * key, 0)[None, :] * scale
        every, few = seen(scores, seeing, query[None, :], token, length, blocks, block)
        value = tl.where(tl.abs(value) < float("inf"), 0.0, value)
        full_mixed += tl.where(past, value * tl.exp(every - full_high), 0.0)
        part_mixed += tl.where(past, value * tl.exp(few - part_high), 0.0)
    whole, some = full_mixed / full_total[None, :], part_mixed / part_total[None, :]
    inside, place = query < length, head + query
    gates = tl.load(gate + place, mask=inside, other=0.0)[None, :]
    between = tl.abs(gates * whole - gates * some)
    bent = tl.where(between < 1, between * between, 2 * between - 1)  # both distances are the same
    put(full + head * width, tl.trans(whole), query, number, length, width, width, 1)
    put(part + head * width, tl.trans(some), query, number, length, width, width, 1)
    tl.store(apart + place, tl.sum(tl.where((number < width)[:, None], bent, 0.0), 0) / width, mask=inside)
    tl.store(dropped + place, unseen / full_total, mask=inside)
    tl.store(entropy + place, full_high + tl.log(full_total) - heard / full_total, mask=inside)
    tl.store(full_sum + place, full_high + tl.log(full_total), mask=inside)
    tl.store(part_sum + place, part_high + tl.log(part_total), mask=inside)


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
