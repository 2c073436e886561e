"""A step of AdamW for a stack of clients, each with a learning rate of its own."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Generator, Tensor

from fedsim_kernels import sgd
from fedsim_kernels.frozen import WARPS, moving
from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

BLOCK = 1024


@torch.no_grad()
def adamw(params: Tensor, grads: Tensor, first: Tensor, second: Tensor, rates: Tensor, frozen: Tensor, step: int,
          betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
          weight_decay: float = 1e-2) -> None:  # fmt: skip
    """`torch.optim.AdamW`: params and both moments (K, P) in place.

    Args:
        params: of K clients.
        grads: their gradients, (K, P).
        first: mean of the gradients, zero at first.
        second: mean of their squares, zero at first.
        rates: the clients' learning rates, (K,).
        frozen: bool (P,): numbers that stay as they are, and so do their moments.
        step: which step this is; the first is 1.
        betas: how much of the moments is kept.
        eps: added to the root of the second moment.
        weight_decay: decoupled.
    """
    way = picked(kernel, reference, params)
    way(params, grads, first, second, rates, frozen, step, betas, eps, weight_decay)


def reference(params: Tensor, grads: Tensor, first: Tensor, second: Tensor, rates: Tensor, frozen: Tensor, step: int,
              betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
              weight_decay: float = 1e-2) -> None:  # fmt: skip
    """In plain torch."""
    rate, (kept, kept_squares) = rates[:, None], betas
    mean = first + (1 - kept) * (grads - first)
    square = kept_squares * second + (1 - kept_squares) * grads * grads
    root = square.sqrt() / sqrt(1 - kept_squares**step) + eps
    moved = params * (1 - rate * weight_decay) - rate / (1 - kept**step) * mean / root
    for kept_one, new in ((params, moved), (first, mean), (second, square)):
        kept_one.copy_(torch.where(frozen, kept_one, new))


def kernel(params: Tensor, grads: Tensor, first: Tensor, second: Tensor, rates: Tensor, frozen: Tensor, step: int,
           betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
           weight_decay: float = 1e-2) -> None:  # fmt: skip
    """One pass, which leaves out what is frozen."""
    clients, size = params.shape
    if params.numel():
        _adamw[(pieces(size, BLOCK), clients)](
            params, grads, first, second, rates, frozen, size, 1 - betas[0], betas[1], 1 - betas[1],
            1 - betas[0] ** step, sqrt(1 - betas[1] ** step), eps, weight_decay, *params.stride(), *grads.stride(),
            *first.stride(), *second.stride(), rates.stride(0), frozen.stride(0), BLOCK, num_warps=WARPS)  # fmt: skip


@jit
def _adamw(values, grads, first, second, rates, frozen, size, new, kept_squares, new_squares, correction,
           root_correction, eps, weight_decay, param_row, param_step, grad_row, grad_step, first_row, first_step,
           second_row, second_step, rate_step, frozen_step, BLOCK: constexpr):  # fmt: skip
    client = tl.program_id(1).to(tl.int64)
    numbers, stays, here = moving(frozen, size, frozen_step, BLOCK)
    param_at = values + client * param_row + numbers * param_step
    first_at = first + client * first_row + numbers * first_step
    second_at = second + client * second_row + numbers * second_step
    grad = tl.load(grads + client * grad_row + numbers * grad_step, mask=here, other=0.0)
    last_mean, last_square = tl.load(first_at, mask=here, other=0.0), tl.load(second_at, mask=here, other=0.0)
    mean = last_mean + new * (grad - last_mean)
    square = kept_squares * last_square + new_squares * grad * grad
    rate = tl.load(rates + client * rate_step)
    root = tl.div_rn(tl.sqrt_rn(square), root_correction) + eps
    param = tl.load(param_at, mask=here, other=0.0)
    moved = param * (1 - rate * weight_decay) - tl.div_rn(rate, correction) * tl.div_rn(mean, root)
    tl.store(param_at, tl.where(stays, param, moved), mask=here)
    tl.store(first_at, tl.where(stays, last_mean, mean), mask=here)
    tl.store(second_at, tl.where(stays, last_square, square), mask=here)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """In the midst of a training."""
    first, second = torch.randn(clients, size, generator=chance), torch.rand(clients, size, generator=chance)
    return {**sgd.inputs(clients, size, chance), "first": first, "second": second, "step": 3, "eps": 0.1}


OP = Op(
    pick=adamw,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda params, frozen, **others: 7 * int((~frozen).sum()) * len(params) * params.itemsize + frozen.nbytes,
    tolerance=2**-19,
    rowwise=("params", "grads", "first", "second", "rates"),
)
