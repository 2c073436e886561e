"""Triton, where it is installed; what its kernels are written with, where it is not."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import (  # pyright: ignore[reportMissingImports]
    TransformType,
    is_functorch_wrapped_tensor,
)
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters

Way = TypeVar("Way", bound=Callable[..., Any])

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
"""Whether kernels are interpreted, on the CPU; the variable has to be set before Triton is imported."""


def jit(function: Callable[..., Any]) -> Any:
    """A kernel; without Triton the function as it is, which nobody can launch."""
    return triton.jit(function) if triton else function


FLOAT32 = (torch.float32,)
WIDE = (torch.float32, torch.float64)
"""What kernels that compute in float64 anyway can read."""


def launches(tensor: Tensor, floats: Collection[torch.dtype] = FLOAT32, stacks: bool = False) -> bool:
    """Whether kernels run where this tensor lives.

    They are of float32, unless they say more, and `torch.func` does not see into them; unless they say that they know
    stacks, and then only for first derivatives of stacks.
    """
    there = triton is not None and (tensor.is_cuda or (INTERPRETED and tensor.is_cpu)) and tensor.dtype in floats
    return there and (not is_functorch_wrapped_tensor(tensor) or (stacks and _slopes_of_stacks()))


def _slopes_of_stacks() -> bool:
    """Whether `torch.func` does no more at the moment than `vmap`, and one `grad`."""
    under = [each.key() for each in retrieve_all_functorch_interpreters()]
    return under.count(TransformType.Grad) < 2 and set(under) <= {TransformType.Grad, TransformType.Vmap}


_listening: list[set[str]] = []


@contextmanager
def noted() -> Iterator[set[str]]:
    """The names of the ops whose kernels are chosen meanwhile."""
    names: set[str] = set()
    _listening.append(names)
    try:
        yield names
    finally:
        _listening.remove(names)


def picked(
    kernel: Way, reference: Way, tensor: Tensor, floats: Collection[torch.dtype] = FLOAT32, stacks: bool = False
) -> Way:
    """The kernel, which is noted, if kernels run where this tensor lives; else the reference."""
    if not launches(tensor, floats, stacks):
        return reference
    for names in _listening:
        names.add(kernel.__module__.rpartition(".")[2])
    return kernel


def pieces(size: int, block: int) -> int:
    """How many blocks cover so many numbers.

    >>> pieces(0, 4), pieces(4, 4), pieces(5, 4)
    (0, 1, 2)
    """
    return -(-size // block)
