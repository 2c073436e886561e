"""Gradients of any module, all clients of a stack at once, by torch's own vectorising of autograd."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedsim.gradients.along import by_torchs_own_kernels, change_along, curvature_along
from fedsim.losses import Loss, loss_of


class Vmapped:
    """Of any module that torch can vectorise: what a GPU does best, and an oracle for the other sources."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, loss: Loss | None = None, offset: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """See `Gradients`."""

        def mean(params: dict[str, Tensor], *batch: Tensor) -> tuple[Tensor, Tensor]:
            losses = self._losses(loss or loss_of(y), params, *batch)
            return losses.mean(), losses

        return vmap(grad(mean, has_aux=True))(dict(params), x, y, *_given(offset))

    def of_inputs(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, loss: Loss | None = None, offset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Gradients`."""

        def total(x: Tensor, params: dict[str, Tensor], *rest: Tensor) -> tuple[Tensor, Tensor]:
            losses = self._losses(loss or loss_of(y), params, x, *rest)
            return losses.sum(), losses

        return vmap(grad(total, has_aux=True))(x, dict(params), y, *_given(offset))

    def scores(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """See `Gradients`."""
        return vmap(self._scores)(dict(params), x)

    def jvp(self, params: Mapping[str, Tensor], x: Tensor, direction: Mapping[str, Tensor]) -> Tensor:
        """See `Gradients`."""

        def change(params: dict[str, Tensor], direction: dict[str, Tensor], x: Tensor) -> Tensor:
            return change_along(lambda own: self._scores(own, x), params, direction)

        with by_torchs_own_kernels(self.module):
            return vmap(change)(dict(params), dict(direction), x)

    def hvp(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, direction: Mapping[str, Tensor],
        loss: Loss | None = None, offset: Tensor | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """See `Gradients`."""
        kind = loss or loss_of(y)

        def curvature(params: dict[str, Tensor], direction: dict[str, Tensor], *batch: Tensor) -> dict[str, Tensor]:
            return curvature_along(lambda own: self._losses(kind, own, *batch).mean(), params, direction)

        with by_torchs_own_kernels(self.module):
            return vmap(curvature)(dict(params), dict(direction), x, y, *_given(offset))

    def _scores(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.module, params, (x,))

    def _losses(self, loss: Loss, params: dict[str, Tensor], x: Tensor, y: Tensor, *offset: Tensor) -> Tensor:
        """Of one client's batch."""
        return loss.each(sum(offset, self._scores(params, x)), y)


def _given(offset: Tensor | None) -> tuple[Tensor, ...]:
    """Itself if there is one; torch does not vectorise over nothing."""
    return () if offset is None else (offset,)
