"""FRUGAL's step, split by column: AdamW on those with moments, the gradient's sign on the rest."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Generator, Tensor

from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

BLOCK = 512


@torch.no_grad()
def frugal(params: Tensor, grads: Tensor, first: Tensor, second: Tensor, slots: Tensor, step: int, rate: float,
           betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2,
           scale: float = 1.0) -> None:  # fmt: skip
    """Matrices (K, m, n) of K clients and moments (K, m, c) of c columns each, in place.

    As `fedsim.optimizers.Frugal` with the projector `columns` and the free rule `sign`.

    Args:
        params: the matrices.
        grads: their gradients.
        first: mean of the chosen columns' gradients.
        second: mean of their squares.
        slots: int32 (K, n): which column of its client's moments is a column's, -1 where it has none.
        step: which step since the moments were zero; the first is 1.
        rate: the learning rate.
        betas: how much of the moments is kept.
        eps: added to the root of the second moment.
        weight_decay: decoupled, of all columns.
        scale: factor of the rate for columns without moments.
    """
    way = picked(kernel, reference, params)
    way(params, grads, first, second, slots, step, rate, betas, eps, weight_decay, scale)


def reference(params: Tensor, grads: Tensor, first: Tensor, second: Tensor, slots: Tensor, step: int, rate: float,
              betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2,
              scale: float = 1.0) -> None:  # fmt: skip
    """In plain torch."""
    params.mul_(1 - rate * weight_decay)
    signs = rate * scale * grads.sign()
    for matrix, slopes, free, mean, square, places in zip(params, grads, signs, first, second, slots, strict=True):
        columns = torch.nonzero(places >= 0).flatten()
        own = places[columns].long()
        chosen = slopes[:, columns]
        mean[:, own] += (1 - betas[0]) * (chosen - mean[:, own])
        square[:, own] = betas[1] * square[:, own] + (1 - betas[1]) * chosen * chosen
        root = square[:, own].sqrt() / sqrt(1 - betas[1] ** step) + eps
        free[:, columns] = rate / (1 - betas[0] ** step) * mean[:, own] / root
        matrix -= free


def kernel(params: Tensor, grads: Tensor, first: Tensor, second: Tensor, slots: Tensor, step: int, rate: float,
           betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2,
           scale: float = 1.0) -> None:  # fmt: skip
    """One pass; moments are read and written where there are any."""
    clients, height, width = params.shape
    if params.numel():
        blocks = pieces(width, BLOCK)
        _frugal[(blocks * height, clients)](
            params, grads, first, second, slots, width, blocks, 1 - rate * weight_decay, rate * scale,
            rate / (1 - betas[0] ** step), 1 - betas[0], betas[1], 1 - betas[1], sqrt(1 - betas[1] ** step), eps,
            *params.stride(), *grads.stride(), *first.stride(), *second.stride(), *slots.stride(), BLOCK)  # fmt: skip


@jit
def _frugal(values, grads, first, second, slots, width, blocks, shrink, free_rate, rate, new, kept_squares,
            new_squares, root_correction, eps, value_client, value_row, value_step, grad_client, grad_row, grad_step,
            first_client, first_row, first_step, second_client, second_row, second_step, slot_client, slot_step,
            BLOCK: constexpr):  # fmt: skip
    client, row = tl.program_id(1).to(tl.int64), (tl.program_id(0) // blocks).to(tl.int64)
    columns = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.multiple_of(columns, 1)  # says less than is so: one by one, as moments are, so that no threads wait
    inside = columns < width
    value_at = values + client * value_client + row * value_row + columns * value_step
    slope = tl.load(grads + client * grad_client + row * grad_row + columns * grad_step, mask=inside, other=0.0)
    slot = tl.load(slots + client * slot_client + columns * slot_step, mask=inside, other=-1).to(tl.int64)
    chosen = slot >= 0
    first_at = first + client * first_client + row * first_row + slot * first_step
    second_at = second + client * second_client + row * second_row + slot * second_step
    mean = tl.load(first_at, mask=chosen, other=0.0)
    mean += new * (slope - mean)
    square = kept_squares * tl.load(second_at, mask=chosen, other=0.0) + new_squares * slope * slope
    along = rate * tl.div_rn(mean, tl.div_rn(tl.sqrt_rn(square), root_correction) + eps)
    sign = (slope > 0).to(tl.float32) - (slope < 0).to(tl.float32)
    value = shrink * tl.load(value_at, mask=inside, other=0.0)
    tl.store(value_at, value - tl.where(chosen, along, free_rate * sign), mask=inside)
    tl.store(first_at, mean, mask=chosen)
    tl.store(second_at, square, mask=chosen)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Matrices of three rows, in the midst of a gap; a quarter of the columns has moments: of great ones in order, as
    the optimizer's.
    """
    params, grads = (torch.randn(clients, 3, size, generator=chance) for _ in range(2))
    first = torch.randn(clients, 3, size // 4, generator=chance)
    slots = torch.full((clients, size), -1, dtype=torch.int32)
    for places in slots:
        chosen = torch.randperm(size, generator=chance)[: size // 4]
        places[chosen if size < 4000 else chosen.sort().values] = torch.arange(size // 4, dtype=torch.int32)
    return {"params": params, "grads": grads * (grads.abs() > 0.1), "first": first,
            "second": torch.rand(first.shape, generator=chance), "slots": slots, "step": 3, "rate": 0.1,
            "eps": 0.1, "scale": 0.3}  # fmt: skip


def moved(params: Tensor, first: Tensor, slots: Tensor, **others: object) -> int:
    """Gradients are read; parameters and both moments read and written; the choice is read once a matrix."""
    return 3 * params.nbytes + 4 * first.nbytes + slots.nbytes


OP = Op(
    pick=frugal,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=moved,
    tolerance=2**-19,
    rowwise=("params", "grads", "first", "second", "slots"),
    timed=(16, 2**20),
)
