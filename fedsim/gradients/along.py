"""What changes along a direction in one client's parameters, of any module: forward-mode derivatives by torch.func."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.func import jvp as torchs_jvp

Named = Mapping[str, Tensor]

LIBRARIES: tuple[Any, ...] = torch.backends.mkldnn, torch.backends.cudnn


FORWARD = RLock()
"""Torch counts how deep forward mode is nested in a process, not in a thread."""


def recurrent(module: nn.Module) -> bool:
    """Whether it has layers that libraries have kernels of their own for."""
    return any(isinstance(layer, nn.RNNBase) for layer in module.modules())


@contextmanager
def by_torchs_own_kernels(module: nn.Module, libraries: Sequence[Any] = LIBRARIES) -> Iterator[None]:
    """Where the module has recurrent layers, whose kernels in libraries know no forward mode; nor, cuDNN's, vmap."""
    before = [library.enabled for library in libraries]
    alone = recurrent(module)
    try:
        for library, enabled in zip(libraries, before, strict=True):
            library.enabled = enabled and not alone
        yield
    finally:
        for library, enabled in zip(libraries, before, strict=True):
            library.enabled = enabled


def jvp(function: Callable[..., Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """Torch's, of one thread after another."""
    with FORWARD:
        return torchs_jvp(function, primals, tangents)


def change_along(function: Callable[[dict[str, Tensor]], Tensor], params: Named, direction: Named) -> Tensor:
    """J d of a function of the parameters, in one pass forward."""
    own = dict(params)
    return jvp(function, (own,), ({name: direction[name] for name in own},))[1]


def curvature_along(loss: Callable[[dict[str, Tensor]], Tensor], params: Named, direction: Named) -> dict[str, Tensor]:
    """H d of a loss, like `params`: forward over reverse (Pearlmutter, Fast Exact Multiplication by the Hessian, 1994).

    At a kink, of a ReLU for instance, it is one-sided as autograd's gradient is.
    """
    own = dict(params)
    return jvp(grad(loss), (own,), ({name: direction[name] for name in own},))[1]
