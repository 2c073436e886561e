"""Gradients in which no example counts for more than a bound: what DP-SGD adds its noise to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedsim.gradients.vmapped import Vmapped
from fedsim.losses import loss_of


class PerExample:
    """The mean over a batch of every example's own gradient, clipped to a 2-norm over all parameters.

    Abadi et al., Deep Learning with Differential Privacy (CCS 2016), Algorithm 1, before the noise. One client after
    another, all examples of a batch at once by torch.func.
    """

    def __init__(self, module: nn.Module, clip: float) -> None:
        """`clip` is the norm."""
        self.clip = clip

        def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            losses = loss_of(y).each(functional_call(module, params, (x.unsqueeze(0),)), y.unsqueeze(0))
            return losses.sum(), losses.sum()

        self.each = vmap(grad(loss, has_aux=True), in_dims=(None, 0, 0))
        self.of_inputs = Vmapped(module).of_inputs

    def __call__(self, params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """See `Gradients`."""
        found = [self._client({name: part[k] for name, part in params.items()}, x[k], y[k]) for k in range(len(y))]
        means, losses = zip(*found, strict=True)
        return {name: torch.stack([mean[name] for mean in means]) for name in params}, torch.stack(losses)

    def _client(self, params: dict[str, Tensor], x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        grads, losses = self.each(params, x, y)
        squares = sum(part.flatten(1).square().sum(1) for part in grads.values())
        assert isinstance(squares, Tensor)
        scale = (self.clip / squares.sqrt().clamp_min(1e-30)).clamp_max(1.0) / len(y)
        return {name: torch.tensordot(scale, part, dims=1) for name, part in grads.items()}, losses
