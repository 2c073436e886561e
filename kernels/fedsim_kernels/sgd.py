"""A step of plain SGD for a stack of clients, each with a learning rate of its own."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedsim_kernels.frozen import WARPS, moving
from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op, Rival

BLOCK = 1024


@torch.no_grad()
def sgd(params: Tensor, grads: Tensor, rates: Tensor, frozen: Tensor, weight_decay: float = 0.0) -> None:
    """`torch.optim.SGD` without momentum: params (K, P) of gradients (K, P), in place.

    Args:
        params: of K clients.
        grads: their gradients.
        rates: the clients' learning rates, (K,).
        frozen: bool (P,): numbers that stay as they are, whatever the decay.
        weight_decay: added to the gradient, times the parameter.
    """
    picked(kernel, reference, params)(params, grads, rates, frozen, weight_decay)


def reference(params: Tensor, grads: Tensor, rates: Tensor, frozen: Tensor, weight_decay: float = 0.0) -> None:
    """In plain torch."""
    moved = params - rates[:, None] * (grads + weight_decay * params)
    params.copy_(torch.where(frozen, params, moved))


def kernel(params: Tensor, grads: Tensor, rates: Tensor, frozen: Tensor, weight_decay: float = 0.0) -> None:
    """One pass, which leaves out what is frozen."""
    clients, size = params.shape
    if params.numel():
        _sgd[(pieces(size, BLOCK), clients)](
            params, grads, rates, frozen, size, weight_decay, *params.stride(), *grads.stride(), rates.stride(0),
            frozen.stride(0), BLOCK, num_warps=WARPS)  # fmt: skip


@torch.no_grad()
def foreach(params: Tensor, grads: Tensor, rates: Tensor, frozen: Tensor, weight_decay: float = 0.0) -> None:
    """By what torch's optimizers are made of, with a list of clients."""
    add, multiply, add_to = torch._foreach_add, torch._foreach_mul_, torch._foreach_add_  # pyright: ignore
    slopes = add(grads.unbind(), params.unbind(), alpha=weight_decay)
    multiply(slopes, (-rates).tolist())
    multiply(slopes, [(~frozen).to(params.dtype)] * len(params))
    add_to(params.unbind(), slopes)


@jit
def _sgd(values, grads, rates, frozen, size, weight_decay, param_row, param_step, grad_row, grad_step, rate_step,
         frozen_step, BLOCK: constexpr):  # fmt: skip
    client = tl.program_id(1).to(tl.int64)
    numbers, stays, here = moving(frozen, size, frozen_step, BLOCK)
    param_at = values + client * param_row + numbers * param_step
    param = tl.load(param_at, mask=here, other=0.0)
    grad = tl.load(grads + client * grad_row + numbers * grad_step, mask=here, other=0.0)
    rate = tl.load(rates + client * rate_step)
    moved = param - rate * (grad + weight_decay * param)
    tl.store(param_at, tl.where(stays, param, moved), mask=here)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """A fifth is frozen, all in a row, as a layer is."""
    params, grads = (torch.randn(clients, size, generator=chance) for _ in range(2))
    rates, frozen = torch.rand(clients, generator=chance), (torch.arange(size) - size // 3).abs() < size // 10
    return {"params": params, "grads": grads, "rates": rates, "frozen": frozen, "weight_decay": 0.01}


OP = Op(
    pick=sgd,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda params, frozen, **others: 3 * int((~frozen).sum()) * len(params) * params.itemsize + frozen.nbytes,
    tolerance=2**-21,
    rowwise=("params", "grads", "rates"),
    rival=Rival("foreach", foreach, 3.0),
)
