"""Gradients by plain autograd, for one client: what a CPU does best with convolutions and recurrent layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedsim.losses import loss_of


class Single:
    """Of any module, and a stack of K = 1."""

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module)  # lent to one client after another: faster than a functional call
        self.leaves = dict(self.module.named_parameters())

    def __call__(self, params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """See `Gradients`."""
        for name, leaf in self.leaves.items():
            leaf.data = params[name].squeeze(0)
        losses = loss_of(y).each(self.module(x.squeeze(0)), y.squeeze(0))
        grads = torch.autograd.grad(losses.mean(), list(self.leaves.values()), materialize_grads=True)
        named = {name: grad.unsqueeze(0) for name, grad in zip(self.leaves, grads, strict=True)}
        return named, losses.detach().unsqueeze(0)

    def of_inputs(self, params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Gradients`."""
        for name, leaf in self.leaves.items():
            leaf.data = params[name].squeeze(0)
        point = x.squeeze(0).detach().requires_grad_()
        losses = loss_of(y).each(self.module(point), y.squeeze(0))
        [slope] = torch.autograd.grad(losses.sum(), [point])
        return slope.unsqueeze(0), losses.detach().unsqueeze(0)
