"""FedStale's direction and its memory of the last updates, in one pass over both."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedsim_kernels.language import constexpr, jit, picked, pieces, tl
from fedsim_kernels.op import Inputs, Op

BLOCK = 1024


@torch.no_grad()
def fedstale(updates: Tensor, memory: Tensor, places: Tensor, weights: Tensor, importances: Tensor, total: Tensor,
             beta: float) -> Tensor:  # fmt: skip
    """v = beta total + sum_k w_k (Delta_k - beta h_k), in the updates' type (P,); then h_k becomes Delta_k.

    See `fedsim.aggregators.FedStale`. All sums are in float64, one client after another.

    Args:
        updates: Delta, (K, P).
        memory: rows (C, P) of the last updates of all clients, changed in place.
        places: (K,), int64: which row of the memory is whose, each at most once.
        weights: w = a / p, (K,).
        importances: a, (K,).
        total: sum of the memory's rows by importance, (P,) in float64, changed in place.
        beta: how much a remembered update counts.
    """
    return picked(kernel, reference, updates)(updates, memory, places, weights, importances, total, beta)


def reference(updates: Tensor, memory: Tensor, places: Tensor, weights: Tensor, importances: Tensor, total: Tensor,
              beta: float) -> Tensor:  # fmt: skip
    """In plain torch."""
    direction = beta * total
    shares = zip(updates.double(), places, weights.double(), importances.double(), strict=True)
    for update, place, weight, importance in shares:
        last = memory[place].double()
        direction += weight * (update - beta * last)
        total += importance * (update - last)
    memory[places] = updates
    return direction.to(updates.dtype)


def kernel(updates: Tensor, memory: Tensor, places: Tensor, weights: Tensor, importances: Tensor, total: Tensor,
           beta: float) -> Tensor:  # fmt: skip
    """One pass: each number of an update and of its client's row is read once, and the row written."""
    clients, size = updates.shape
    direction = torch.empty(size, dtype=updates.dtype, device=updates.device)
    if size:
        factor = torch.full((), beta, dtype=torch.float64, device=updates.device)  # an argument would be float32
        _fedstale[(pieces(size, BLOCK),)](
            updates, memory, places, weights, importances, total, direction, factor, clients, size,
            *updates.stride(), *memory.stride(), places.stride(0), weights.stride(0), importances.stride(0),
            total.stride(0), BLOCK)  # fmt: skip
    return direction


@jit
def _fedstale(updates, memory, places, weights, importances, total, direction, factor, clients, size, update_row,
              update_step, memory_row, memory_step, place_step, weight_step, importance_step, total_step,
              BLOCK: constexpr):  # fmt: skip
    numbers = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = numbers < size
    beta = tl.load(factor)
    sum_at = total + numbers * total_step
    remembered = tl.load(sum_at, mask=inside, other=0.0)
    along = beta * remembered
    update_at = updates + numbers * update_step
    for client in range(clients):
        update = tl.load(update_at, mask=inside, other=0.0)
        last_at = memory + tl.load(places + client * place_step) * memory_row + numbers * memory_step
        last = tl.load(last_at, mask=inside, other=0.0).to(tl.float64)
        along += tl.load(weights + client * weight_step).to(tl.float64) * (update.to(tl.float64) - beta * last)
        remembered += tl.load(importances + client * importance_step).to(tl.float64) * (update.to(tl.float64) - last)
        tl.store(last_at, update, mask=inside)
        update_at += update_row
    tl.store(direction + numbers, along.to(direction.dtype.element_ty), mask=inside)
    tl.store(sum_at, remembered, mask=inside)


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Two clients of the memory's have sent nothing; great weights, so that sums in float32 would be wrong."""
    updates, memory = (torch.randn(clients + more, size, generator=chance) for more in (0, 2))
    importances, everyone = torch.rand(clients + 2, generator=chance), torch.randperm(clients + 2, generator=chance)
    places = everyone[:clients]
    return {"updates": updates, "memory": memory, "places": places, "weights": 3000 * importances[places],
            "importances": importances[places], "total": importances.double() @ memory.double(),
            "beta": 0.7}  # fmt: skip


def moved(updates: Tensor, total: Tensor, **others: object) -> int:
    """Updates and their rows are read and rows written, and the sum read and written, and v."""
    return 3 * updates.nbytes + 2 * total.nbytes + updates[0].nbytes


OP = Op(pick=fedstale, reference=reference, kernel=kernel, inputs=inputs, moved=moved)
