"""BatchNorm by a policy that can be said: training looks at its own batch, and nobody keeps or sends averages.

Before a model is measured, its statistics are estimated anew on calibration batches, as Zhu et al. (ICLR 2026) do with
a merged model. A mean of models has averages of its own, which the mean of the models' averages is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

Statistics = tuple[Tensor, Tensor]
"""Mean and variance of each channel, (channels,) each."""


class BatchNorm(nn.Module):
    """Normalises each channel of (B, channels, ...) over batch and places, then scales and shifts it.

    Ioffe & Szegedy, 2015. Without buffers: the statistics are the batch's own, unless `fixed` has set others.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps
        self.fixed: Statistics | None = None
        self.collected: list[Statistics] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        mean, variance = self.fixed or self._own(x)
        shape = (1, -1, *[1] * (x.dim() - 2))
        scale = self.weight * (variance + self.eps).rsqrt()
        return x * scale.view(shape) + (self.bias - mean * scale).view(shape)

    def _own(self, x: Tensor) -> Statistics:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        variance, mean = torch.var_mean(x, dim=axes, correction=0)
        if self.collected is not None:
            places = x.numel() // x.shape[1]
            self.collected.append((mean, variance * places / max(1, places - 1)))
        return mean, variance


class GhostNorm(BatchNorm):
    """A BatchNorm that takes a batch for several: each `ghost` examples are normalised by statistics of their own.

    Ghost Batch Normalization of Hoffer, Hubara & Soudry, Train longer, generalize better (NeurIPS 2017). Scale and
    shift are shared. What is left over belongs to the last chunk, so that none is smaller, unless the batch is.
    `estimated` takes the mean over chunks, the paper's an average that forgets; where statistics are `fixed` it is a
    BatchNorm.
    """

    def __init__(self, channels: int, ghost: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps)
        self.ghost = ghost

    def forward(self, x: Tensor) -> Tensor:
        """The same shape (B, channels, ...)."""
        more = 0 if self.fixed else len(x) // self.ghost - 1
        sizes = [self.ghost] * more
        chunks = x.split([*sizes, len(x) - sum(sizes)]) if more > 0 else [x]
        return torch.cat([super(GhostNorm, self).forward(chunk) for chunk in chunks])


def estimated(model: nn.Module, named: Mapping[str, Tensor], batches: Sequence[Tensor]) -> list[Statistics]:
    """The mean of each BatchNorm's statistics over these batches, at these parameters, in the order of the layers.

    Each layer is estimated while the layers before it still use their own batch, as torch does. Models without
    BatchNorm look at no batch.
    """
    layers = norms(model)
    for layer in layers:
        layer.collected = []
    for batch in batches if layers else ():
        functional_call(model, dict(named), (batch,))
    found = []
    for layer in layers:
        means, variances = zip(*layer.collected or (), strict=True)
        found.append((torch.stack(means).mean(0), torch.stack(variances).mean(0)))
        layer.collected = None
    return found


@contextmanager
def fixed(models: Iterable[nn.Module], statistics: Sequence[Statistics]) -> Iterator[None]:
    """Inside, the BatchNorms of these models, which are alike, use these statistics."""
    layers = [layer for model in models for layer in zip(norms(model), statistics, strict=True)]
    for layer, own in layers:
        layer.fixed = own
    try:
        yield
    finally:
        for layer, _ in layers:
            layer.fixed = None


def norms(model: nn.Module) -> list[BatchNorm]:
    """All its BatchNorms, in order."""
    return [layer for layer in model.modules() if isinstance(layer, BatchNorm)]
