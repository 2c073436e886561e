"""Triton, where it is installed; what its kernels are written with, where it is not."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    triton: Any = None
    tl: Any = None
    constexpr = int
else:
    try:
        import triton
        import triton.language as tl
        from triton.language import constexpr
    except ImportError:
        triton = tl = constexpr = None

INTERPRETED: bool = triton is not None and os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels are interpreted, on any device; the variable has to be set before Triton is imported."""


def jit(function: Callable[..., Any]) -> Any:
    """A kernel; without Triton the function as it is, which nobody can launch."""
    return triton.jit(function) if triton else function


def launches(tensor: Tensor) -> bool:
    """Whether kernels run where this tensor lives; they are of float32 alone."""
    return triton is not None and (tensor.is_cuda or INTERPRETED) and tensor.dtype is torch.float32


def pieces(size: int, block: int) -> int:
    """How many blocks cover so many numbers.

    >>> pieces(0, 4), pieces(4, 4), pieces(5, 4)
    (0, 1, 2)
    """
    return -(-size // block)
