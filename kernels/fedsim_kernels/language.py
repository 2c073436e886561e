"""Triton, where it is installed; what its kernels are written with, where it is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch import Tensor

triton: Any
tl: Any
try:
    import triton  # pyright: ignore[reportMissingImports]
    import triton.language as tl  # pyright: ignore[reportMissingImports]
except ImportError:
    triton = tl = None

constexpr = int
"""Known when a kernel is compiled; Triton goes by the annotation's name."""
INTERPRETED: bool = triton is not None and os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels are interpreted, on any device; the variable has to be set before Triton is imported."""


def jit(function: Callable[..., None]) -> Any:
    """A kernel; without Triton the function as it is, which nobody can launch."""
    return triton.jit(function) if triton else function


def launches(tensor: Tensor) -> bool:
    """Whether kernels run where this tensor lives."""
    return triton is not None and (tensor.is_cuda or INTERPRETED)


def pieces(size: int, block: int) -> int:
    """How many blocks cover so many numbers.

    >>> pieces(0, 4), pieces(4, 4), pieces(5, 4)
    (0, 1, 2)
    """
    return -(-size // block)
