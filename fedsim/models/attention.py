"""Causal attention to all tokens, and to a few blocks of them: by a kernel, else with masks.

SSA, Sparse Sparse Attention (2511.20102); the rule was read in the authors' repository (zhenyi4/ssa).
"""

from __future__ import annotations

import torch
from fedsim_kernels.aligned_attention import aligned_attention
from fedsim_kernels.language import launches
from torch import Tensor
from torch.nn.functional import smooth_l1_loss


def selected(q: Tensor, k: Tensor, block: int, blocks: int) -> Tensor:
    """Which blocks each query attends to where attention is sparse, bool (B, H, T, T / block).

    `blocks` blocks of `block` tokens: its own one always, and those complete ones before it whose mean
    keys it scores highest; there is no gradient. Where fewer came before, later ones fill up, which nobody sees. The
    authors add up the softmax of these scores over the heads that share keys; here every head has its own, and the
    order of a softmax is that of its scores.
    """
    length = q.shape[2]
    complete, own = length // block, torch.arange(length, device=q.device) // block
    every = torch.arange(-(-length // block), device=q.device)
    pooled = k.detach()[:, :, : complete * block].unflatten(2, (complete, block)).mean(3)
    past = every[:complete] < own.unsqueeze(1)
    best = (q.detach() @ pooled.mT).masked_fill(~past, -torch.inf).topk(min(blocks - 1, complete), dim=-1).indices
    return (best.unsqueeze(-1) == every).any(-2) | (every == own.unsqueeze(1))


def visible(chosen: Tensor, block: int, length: int) -> Tensor:
    """Which tokens each query sees, of those of its blocks that are not in the future: bool (B, H, T, T)."""
    return chosen.repeat_interleave(block, dim=-1)[..., :length] & causal(length, chosen)


def causal(length: int, like: Tensor) -> Tensor:
    """Which tokens are not in the future, bool (T, T)."""
    return torch.ones(length, length, dtype=torch.bool, device=like.device).tril()


def weights(q: Tensor, k: Tensor, seen: Tensor) -> Tensor:
    """Softmax over what is seen, (B, H, T, T)."""
    return (q / q.shape[-1] ** 0.5 @ k.mT).masked_fill(~seen, -torch.inf).softmax(-1)


def both(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, chosen: Tensor, block: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Gated outputs (B, H, T, D) of full attention and of that to chosen blocks, and what `LOOKS` says, (B,) each.

    Gates are (B, H, T, 1). Outputs are aligned head by head, before they are mixed.
    """
    if launches(q, stacks=True):
        asked, keys, values, gates, blocks = (each.flatten(0, 1) for each in (q, k, v, gate.squeeze(3), chosen))
        found = aligned_attention(asked, keys, values, gates, blocks, block)
        full, part, *looks = (each.unflatten(0, q.shape[:2]) for each in found)
        apart, unseen, spread = (each.mean((1, 2)) for each in looks)
        return gate * full, gate * part, (apart, unseen, spread)
    seen, whole = visible(chosen, block, q.shape[2]), weights(q, k, causal(q.shape[2], q))
    full, part, told = gate * (whole @ v), gate * (weights(q, k, seen) @ v), whole.detach()
    return full, part, (alignment(full, part), dropped(told, seen).mean((1, 2)), entropy(told).mean((1, 2)))


def alignment(full: Tensor, sparse: Tensor) -> Tensor:
    """How far two outputs (B, ...) are apart, (B,): each is drawn to the other as it stands, so that both move."""
    pulled = smooth_l1_loss(full, sparse.detach(), reduction="none")
    pulling = smooth_l1_loss(full.detach(), sparse, reduction="none")
    return (pulled + pulling).flatten(1).mean(1)


def dropped(full: Tensor, seen: Tensor) -> Tensor:
    """How much of full attention's weight (B, H, T, T) lies where sparse attention does not look, (B, H, T)."""
    return full.masked_fill(seen, 0.0).sum(-1)


def entropy(full: Tensor) -> Tensor:
    """Of each query's weights, (B, H, T), in nats."""
    return torch.special.entr(full).sum(-1)
