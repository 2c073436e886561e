"""Gradients in which no example counts for more than a bound: what DP-SGD adds its noise to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from fedsim.gradients.along import by_torchs_own_kernels
from fedsim.gradients.vmapped import Vmapped
from fedsim.losses import Loss, loss_of


class EachExample(Vmapped):
    """The gradient of every example of a batch, all at once by torch.func. Of a loss of pairs a pair is an example."""

    def each(
        self, params: dict[str, Tensor], x: Tensor, y: Tensor, loss: Loss | None = None, *offset: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Of one client: by name (B, *shape), and the losses (B,). See `Gradients`, whose arguments have an axis K."""
        kind = loss or loss_of(y)

        def one(params: dict[str, Tensor], points: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            losses = self._losses(kind, params, points, y.unsqueeze(0), *offset)
            return losses.sum(), losses.sum()

        points = x.unflatten(0, (-1, len(y))).transpose(0, 1)  # (B, 1 or 2, *shape)
        with by_torchs_own_kernels(self.module, [torch.backends.cudnn]):
            return vmap(grad(one, has_aux=True), in_dims=(None, 0, 0))(params, points, y)


class PerExample(EachExample):
    """The mean over a batch of every example's own gradient, clipped to a 2-norm over all parameters.

    Abadi et al., Deep Learning with Differential Privacy (CCS 2016), Algorithm 1, before the noise. One client after
    another.
    """

    def __init__(self, module: nn.Module, clip: float) -> None:
        """`clip` is the norm."""
        super().__init__(module)
        self.clip = clip

    def __call__(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, loss: Loss | None = None, offset: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """See `Gradients`."""
        found = []
        for k in range(len(y)):
            named, own = {name: part[k] for name, part in params.items()}, () if offset is None else (offset[k],)
            grads, losses = self.each(named, x[k], y[k], loss, *own)
            found.append((self._clipped(grads), losses))
        means, losses = zip(*found, strict=True)
        return {name: torch.stack([mean[name] for mean in means]) for name in params}, torch.stack(losses)

    def _clipped(self, grads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean of one client's (B, *shape)."""
        squares = sum(part.flatten(1).square().sum(1) for part in grads.values())
        assert isinstance(squares, Tensor)
        scale = (self.clip / squares.sqrt().clamp_min(1e-30)).clamp_max(1.0) / len(squares)
        return {name: torch.tensordot(scale, part, dims=1) for name, part in grads.items()}
