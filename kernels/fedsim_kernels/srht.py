"""The subsampled randomised Hadamard transform of the clients' rows."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from fedsim_kernels import hadamard
from fedsim_kernels.hadamard import padded
from fedsim_kernels.language import picked
from fedsim_kernels.op import Inputs, Op


@torch.no_grad()
def srht(rows: Tensor, sign: Tensor, taken: Tensor) -> Tensor:
    """sqrt(1/b) S H D x of every row x (P,), in its type: (K, b).

    As `fedsim.wire.sketches.SRHT`: D are signs (padded P,), and `taken` int64 (b,) are the rows of H that S takes.
    """
    return picked(kernel, reference, rows)(rows, sign, taken)


def reference(rows: Tensor, sign: Tensor, taken: Tensor) -> Tensor:
    """In plain torch."""
    signed = sign.double() * pad(rows.double(), (0, len(sign) - rows.shape[1]))
    return (hadamard.reference(signed)[:, taken] / sqrt(len(taken))).to(rows.dtype)


def kernel(rows: Tensor, sign: Tensor, taken: Tensor) -> Tensor:
    """The transform, which multiplies by signs, and what all is divided by, as it reads; then what is taken of it."""
    return hadamard.product(rows, len(sign), before=sign / sqrt(len(taken)))[:, taken]


def randomness(size: int, chance: Generator) -> Inputs:
    """Signs, and half as many places, of which some are the same."""
    full = padded(size)
    return {
        "sign": torch.randint(2, (full,), generator=chance) * 2.0 - 1,
        "taken": torch.randint(full, (full // 2 + 1,), generator=chance),
    }


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Updates, and randomness."""
    return {"rows": torch.randn(clients, size, generator=chance), **randomness(size, chance)}


OP = Op(
    pick=srht,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda rows, sign, taken: (
        rows.nbytes + sign.nbytes + taken.nbytes + len(rows) * len(taken) * rows.element_size()
    ),
    tolerance=2**-20,
    rowwise=("rows",),
)
