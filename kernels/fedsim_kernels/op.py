"""What the tests and the benchmark have to know of an op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Generator

Inputs = dict[str, Any]
"""Arguments by name."""


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
    differentiable: tuple[str, ...] = ()
    """Arguments that gradients flow to."""
    tolerance: float = 2**-23
    """From the reference in float64, beside numbers around 1 and relative to greater ones; 2**-23 is one unit."""
    rowwise: tuple[str, ...] = ()
    """Arguments with a row for each client, if what happens to one does not depend on the others."""
    timed: tuple[int, int] = (64, 2**20)
    """Rows, and numbers in each, that it is timed on."""
