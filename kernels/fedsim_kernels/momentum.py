"""A step of SGD with momentum for a stack of clients, each with a learning rate of its own."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedsim_kernels import sgd
from fedsim_kernels.frozen import WARPS, moving
from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

BLOCK = 1024


@torch.no_grad()
def momentum(params: Tensor, grads: Tensor, buffers: Tensor, rates: Tensor, frozen: Tensor, decay: float = 0.9,
             weight_decay: float = 0.0, nesterov: bool = False) -> None:  # fmt: skip
    """`torch.optim.SGD` with momentum, without dampening: params and buffers (K, P) in place.

    Args:
        params: of K clients.
        grads: their gradients, (K, P).
        buffers: the momentum, zero at first.
        rates: the clients' learning rates, (K,).
        frozen: bool (P,): numbers that stay as they are, and so does their momentum.
        decay: how much of the momentum is kept.
        weight_decay: added to the gradient, times the parameter.
        nesterov: whether the step looks one ahead.
    """
    way = picked(kernel, reference, params)
    way(params, grads, buffers, rates, frozen, decay, weight_decay, nesterov)


def reference(params: Tensor, grads: Tensor, buffers: Tensor, rates: Tensor, frozen: Tensor, decay: float = 0.9,
              weight_decay: float = 0.0, nesterov: bool = False) -> None:  # fmt: skip
    """In plain torch."""
    slopes = grads + weight_decay * params
    velocity = decay * buffers + slopes
    along = slopes + decay * velocity if nesterov else velocity
    params.copy_(torch.where(frozen, params, params - rates[:, None] * along))
    buffers.copy_(torch.where(frozen, buffers, velocity))


def kernel(params: Tensor, grads: Tensor, buffers: Tensor, rates: Tensor, frozen: Tensor, decay: float = 0.9,
           weight_decay: float = 0.0, nesterov: bool = False) -> None:  # fmt: skip
    """One pass, which leaves out what is frozen."""
    clients, size = params.shape
    if params.numel():
        _momentum[(pieces(size, BLOCK), clients)](
            params, grads, buffers, rates, frozen, size, decay, weight_decay, *params.stride(), *grads.stride(),
            *buffers.stride(), rates.stride(0), frozen.stride(0), nesterov, BLOCK, num_warps=WARPS)  # fmt: skip


@jit
def _momentum(values, grads, buffers, rates, frozen, size, decay, weight_decay, param_row, param_step, grad_row,
              grad_step, buffer_row, buffer_step, rate_step, frozen_step, NESTEROV: constexpr,
              BLOCK: constexpr):  # fmt: skip
    client = tl.program_id(1).to(tl.int64)
    numbers, stays, here = moving(frozen, size, frozen_step, BLOCK)
    param_at = values + client * param_row + numbers * param_step
    buffer_at = buffers + client * buffer_row + numbers * buffer_step
    param = tl.load(param_at, mask=here, other=0.0)
    slope = tl.load(grads + client * grad_row + numbers * grad_step, mask=here, other=0.0) + weight_decay * param
    buffer = tl.load(buffer_at, mask=here, other=0.0)
    velocity = decay * buffer + slope
    along = velocity
    if NESTEROV:
        along = slope + decay * velocity
    moved = param - tl.load(rates + client * rate_step) * along
    tl.store(param_at, tl.where(stays, param, moved), mask=here)
    tl.store(buffer_at, tl.where(stays, buffer, velocity), mask=here)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """In the midst of a training."""
    given = sgd.inputs(clients, size, chance)
    return {**given, "buffers": torch.randn(clients, size, generator=chance), "nesterov": size % 2 == 1}


OP = Op(
    pick=momentum,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda params, frozen, **others: 5 * int((~frozen).sum()) * len(params) * params.itemsize + frozen.nbytes,
    tolerance=2**-21,
    rowwise=("params", "grads", "buffers", "rates"),
)
