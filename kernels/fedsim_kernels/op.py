"""What the tests and the benchmark have to know of an op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator

Inputs = dict[str, Any]
"""Arguments by name."""


@dataclass(frozen=True)
class Rival:
    """What else does the same, or as much and more."""

    name: str
    run: Callable[..., Any]
    """Takes the op's arguments."""
    times: float
    """As long as the op it should take, at least."""


@dataclass(frozen=True, kw_only=True)
class Op:
    """An op's functions, which take the same arguments, and what they are tested and timed on.

    What an op changes in place it changes alike in all three, and it is compared like what it returns.
    """

    pick: Callable[..., Any]
    """What users call: the kernel where it runs, else the reference."""
    reference: Callable[..., Any]
    """In plain torch, for any floating type."""
    kernel: Callable[..., Any]
    """Launches Triton."""
    inputs: Callable[[int, int, Generator], Inputs]
    """Arguments for so many rows of so many numbers, float32 on the CPU."""
    moved: Callable[..., int]
    """Bytes that have to be read and written at least, of the arguments."""
    flops: Callable[..., int] | None = None
    """Sums and products, of the arguments, where they may take longer than memory."""
    computes: torch.dtype = torch.float32
    """In what."""
    fraction: float = 0.8
    """Of a copy's bandwidth that it should reach on an H100, if memory is what limits it."""
    rival: Rival | None = None
    """Beside compiled torch."""
    differentiable: tuple[str, ...] = ()
    """Arguments that gradients flow to."""
    tolerance: float = 2**-23
    """From the reference in float64, beside numbers around 1 and relative to greater ones; 2**-23 is one unit."""
    rowwise: tuple[str, ...] = ()
    """Arguments with a row for each client, if what happens to one does not depend on the others."""
    timed: tuple[int, int] = (64, 2**20)
    """Rows, and numbers in each, that it is timed on."""


def layer_sizes(size: int) -> tuple[int, int]:
    """Examples of a client and units of a layer that ops are tried on; with many inputs as many as one trains with."""
    return (32, 256) if size >= 4000 else (17, 33)
