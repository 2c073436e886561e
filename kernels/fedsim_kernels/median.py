"""Of every coordinate the median over clients."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from fedsim_kernels import trimmed_mean
from fedsim_kernels.language import picked
from fedsim_kernels.op import Inputs, Op


@torch.no_grad()
def median(rows: Tensor) -> Tensor:
    """Of every column of rows (K, P), of an even K the mean of both middle values, in their type: (P,).

    As `fedsim.defences.Median`: all is trimmed but the middle. Of no rows it is 0; what is not a number counts as
    infinite.
    """
    return picked(kernel, reference, rows)(rows)


def reference(rows: Tensor) -> Tensor:
    """In plain torch."""
    return trimmed_mean.reference(rows, len(rows))


def kernel(rows: Tensor) -> Tensor:
    """One pass over the rows, which are sorted in registers."""
    return trimmed_mean.kernel(rows, len(rows))


def inputs(clients: int, size: int, chance: Generator) -> Inputs:
    """Updates."""
    return {"rows": torch.randn(clients, size, generator=chance)}


OP = Op(
    pick=median,
    reference=reference,
    kernel=kernel,
    inputs=inputs,
    moved=lambda rows: rows.nbytes + rows[0].nbytes,
)
