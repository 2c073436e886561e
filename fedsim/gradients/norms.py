"""How long the vectors of a stack of clients are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedsim.gradients.closed_form import at_most


def norms(named: Mapping[str, Tensor], order: int = 2) -> Tensor:
    """Of each client's tensors (K, *shape) together, (K,): 1-norms, or 2-norms.

    By one thread: torch would share a lone client's long sum among several, which rounds it another way.
    """
    with at_most(1):
        if order == 1:
            return torch.stack([part.flatten(1).abs().sum(1) for part in named.values()]).sum(0)
        return torch.stack([part.flatten(1).square().sum(1) for part in named.values()]).sum(0).sqrt()
