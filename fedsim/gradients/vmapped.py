"""Gradients of any module, all clients of a stack at once, by torch's own vectorising of autograd."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedsim.losses import loss_of


class Vmapped:
    """Of any module that torch can vectorise: what a GPU does best, and an oracle for the other sources."""

    def __init__(self, module: nn.Module) -> None:
        def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            losses = loss_of(y).each(functional_call(module, params, (x,)), y)
            return losses.mean(), losses

        def total(x: Tensor, params: dict[str, Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
            losses = loss_of(y).each(functional_call(module, params, (x,)), y)
            return losses.sum(), losses

        self.each, self.each_input = vmap(grad(loss, has_aux=True)), vmap(grad(total, has_aux=True))

    def __call__(self, params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """See `Gradients`."""
        return self.each(dict(params), x, y)

    def of_inputs(self, params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Gradients`."""
        return self.each_input(x, dict(params), y)
