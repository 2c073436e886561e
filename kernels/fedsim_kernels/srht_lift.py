"""The transpose of the subsampled randomised Hadamard transform: what is read from sketches."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Generator, Tensor

from fedsim_kernels import count_table, hadamard
from fedsim_kernels.language import picked
from fedsim_kernels.op import Inputs, Op
from fedsim_kernels.srht import randomness


@torch.no_grad()
def srht_lift(rows: Tensor, sign: Tensor, taken: Tensor, size: int) -> Tensor:
    """The first `size` of sqrt(1/b) D H S^T y of every sketch y (b,), in its type: (K, size).

    As `fedsim.wire.sketches.SRHT`, with signs and places as in `srht`. What was taken twice is added up in its order.
    """
    return picked(kernel, reference, rows)(rows, sign, taken, size)


def reference(rows: Tensor, sign: Tensor, taken: Tensor, size: int) -> Tensor:
    """In plain torch."""
    spread = torch.zeros(len(rows), len(sign), dtype=torch.float64, device=rows.device)
    spread.index_add_(1, taken, rows.double())
    return ((sign * hadamard.reference(spread))[:, :size] / sqrt(len(taken))).to(rows.dtype)


def kernel(rows: Tensor, sign: Tensor, taken: Tensor, size: int) -> Tensor:
    """What was taken goes back to its place, as in a count sketch; the transform multiplies by signs as it writes."""
    spread = count_table.kernel(rows, taken[None], torch.ones_like(rows[:1]), len(sign))[:, 0]
    return hadamard.product(spread, size, after=sign / sqrt(len(taken)))


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Sketches, and what they were made with."""
    made = randomness(size, chance)
    return {"rows": torch.randn(clients, len(made["taken"]), generator=chance), **made, "size": size}


OP = Op(
    pick=srht_lift,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda rows, sign, taken, size: (
        rows.nbytes + sign.nbytes + taken.nbytes + len(rows) * size * rows.element_size()
    ),
    tolerance=2**-20,
    rowwise=("rows",),
)
