"""Gradients by plain autograd, for one client: what a CPU does best with convolutions and recurrent layers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy


class Single:
    """Of any module, and a stack of K = 1."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """See `Gradients`."""
        leaves = {name: tensor.squeeze(0).detach().requires_grad_() for name, tensor in params.items()}
        losses = cross_entropy(functional_call(self.module, leaves, (x.squeeze(0),)), y.squeeze(0), reduction="none")
        grads = torch.autograd.grad(losses.mean(), list(leaves.values()), materialize_grads=True)
        return {name: grad.unsqueeze(0) for name, grad in zip(leaves, grads, strict=True)}, losses.detach().unsqueeze(0)
