"""Gradients by plain autograd, for one client: what a CPU does best with convolutions and recurrent layers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.gradients.along import by_torchs_own_kernels, change_along, curvature_along
from fedsim.losses import Loss, loss_of


class Single:
    """Of any module, and a stack of K = 1."""

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module)  # lent to one client after another: faster than a functional call
        self.leaves = dict(self.module.named_parameters())

    def __call__(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, loss: Loss | None = None, offset: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """See `Gradients`."""
        losses = self._losses(params, x.squeeze(0), y, loss, offset)
        grads = torch.autograd.grad(losses.mean(), list(self.leaves.values()), materialize_grads=True)
        named = {name: grad.unsqueeze(0) for name, grad in zip(self.leaves, grads, strict=True)}
        return named, losses.detach().unsqueeze(0)

    def of_inputs(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, loss: Loss | None = None, offset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Gradients`."""
        point = x.squeeze(0).detach().requires_grad_()
        losses = self._losses(params, point, y, loss, offset)
        [slope] = torch.autograd.grad(losses.sum(), [point])
        return slope.unsqueeze(0), losses.detach().unsqueeze(0)

    @torch.no_grad()
    def scores(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """See `Gradients`."""
        return self._of(params)(x.squeeze(0)).unsqueeze(0)

    def jvp(self, params: Mapping[str, Tensor], x: Tensor, direction: Mapping[str, Tensor]) -> Tensor:
        """See `Gradients`."""
        with by_torchs_own_kernels(self.module):
            return change_along(partial(self._functional, x), _first(params), _first(direction)).unsqueeze(0)

    def hvp(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, direction: Mapping[str, Tensor],
        loss: Loss | None = None, offset: Tensor | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """See `Gradients`."""

        def mean(named: dict[str, Tensor]) -> Tensor:
            scores = self._functional(x, named)
            return (loss or loss_of(y)).each(scores if offset is None else scores + offset, y.squeeze(0)).mean()

        with by_torchs_own_kernels(self.module):
            found = curvature_along(mean, _first(params), _first(direction))
        return {name: part.unsqueeze(0) for name, part in found.items()}

    def _functional(self, x: Tensor, named: dict[str, Tensor]) -> Tensor:
        """Scores (B, outputs) as a function of one client's parameters."""
        return functional_call(self.module, named, (x.squeeze(0),))

    def _of(self, params: Mapping[str, Tensor]) -> nn.Module:
        """The module as this client has it."""
        for name, leaf in self.leaves.items():
            leaf.data = params[name].squeeze(0)
        return self.module

    def _losses(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, loss: Loss | None, offset: Tensor | None
    ) -> Tensor:
        """(B,), for autograd."""
        scores = self._of(params)(x)
        return (loss or loss_of(y)).each(scores if offset is None else scores + offset, y.squeeze(0))


def _first(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The one client's own."""
    return {name: part.squeeze(0) for name, part in params.items()}
