"""Dropout whose mask has an address: whoever trains, wherever and in whatever stack, drops the same."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from fedsim_kernels import philox
from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op
from fedsim_kernels.philox import low_word, spread

BLOCK = 1024


def dropout(x: Tensor, clients: Tensor, ordinals: Tensor, steps: Tensor, seed: int, p: float = 0.5) -> Tensor:
    """Numbers x (K, N) of K clients, each dropped with chance p and else divided by 1 - p. Differentiable.

    Number i of a client goes by word i mod 4 of Philox, keyed by the seed, at (i // 4, client, ordinal, step). Kernel
    and reference drop the same numbers.

    Args:
        x: a layer's numbers.
        clients: whose they are, int64 (K,), below 2^32, as all counts here.
        ordinals: which of its trainings this is, int64 (K,).
        steps: which step of it, int64 (K,).
        seed: names the layer, within [0, 2^63).
        p: within [0, 1).
    """
    if not 0 <= p < 1:
        raise ValueError(f"the chance to be dropped has to be within [0, 1), not {p}")
    return picked(kernel, reference, x)(x, clients, ordinals, steps, seed, p)


def reference(x: Tensor, clients: Tensor, ordinals: Tensor, steps: Tensor, seed: int, p: float = 0.5) -> Tensor:
    """In plain torch."""
    quarters = torch.arange(pieces(x.shape[1], 4), device=x.device)
    drawn = philox.words(seed, (quarters, clients[:, None], ordinals[:, None], steps[:, None]))
    kept = torch.stack(drawn, dim=2).flatten(1)[:, : x.shape[1]] >= _threshold(p)
    return torch.where(kept, x * (1 / (1 - p)), 0.0)


def kernel(x: Tensor, clients: Tensor, ordinals: Tensor, steps: Tensor, seed: int, p: float = 0.5) -> Tensor:
    """One pass, forward and backward alike: the mask is drawn again, and nowhere kept."""
    return _Dropout.apply(x, clients, ordinals, steps, seed, p)  # pyright: ignore[reportReturnType]


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clients: Tensor, ordinals: Tensor, steps: Tensor, seed: int, p: float) -> Tensor:
        ctx.save_for_backward(clients, ordinals, steps)
        ctx.rest = seed, p
        return _dropped(x, clients, ordinals, steps, seed, p)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return kernel(grads[0], *ctx.saved_tensors, *ctx.rest), None, None, None, None, None


def _dropped(x: Tensor, clients: Tensor, ordinals: Tensor, steps: Tensor, seed: int, p: float) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        _dropout[(pieces(x.shape[1], BLOCK), len(x))](
            x, clients, ordinals, steps, out, x.shape[1], seed, _threshold(p), 1 / (1 - p), *x.stride(),
            clients.stride(0), ordinals.stride(0), steps.stride(0), BLOCK)  # fmt: skip
    return out


def _threshold(p: float) -> int:
    """Words below it drop."""
    return round(p * 2**32)


@jit
def _dropout(x, clients, ordinals, steps, out, size, seed, threshold, scale, x_row, x_step, client_step, ordinal_step,
             step_step, BLOCK: constexpr):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    quarters = tl.program_id(0).to(tl.int64) * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    numbers = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    nothing = tl.zeros((BLOCK // 4,), tl.uint32)
    client = nothing + low_word(tl.load(clients + row * client_step))
    ordinal = nothing + low_word(tl.load(ordinals + row * ordinal_step))
    step = nothing + low_word(tl.load(steps + row * step_step))
    w0, w1, w2, w3 = tl.philox(seed, low_word(quarters), client, ordinal, step)
    kept = spread(w0, w1, w2, w3).to(tl.int64) >= threshold
    here = tl.load(x + row * x_row + numbers * x_step, mask=numbers < size, other=0.0)
    tl.store(out + row * size + numbers, tl.where(kept, here * scale, 0.0), mask=numbers < size)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Counts near 2^32 too."""
    names = [torch.randint(most, (clients,), generator=chance) for most in (2**32, 100, 1000)]
    return {"x": torch.randn(clients, size, generator=chance), "clients": names[0], "ordinals": names[1],
            "steps": names[2], "seed": 2**62 + 12345, "p": 0.3}  # fmt: skip


OP = Op(
    pick=dropout,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda x, **others: 2 * x.nbytes,
    differentiable=("x",),
    rowwise=("x", "clients", "ordinals", "steps"),
)
