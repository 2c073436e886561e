"""AdaGrad-Norm: one rate for all parameters, by all gradients so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from fedsim.optimizers.addressed import Addressed, Closure, evaluated
from fedsim.optimizers.recipe import Positive
from fedsim.work import LocalTask

CHUNK = 2**14
"""So many squares are added up by one thread: the sum is the same however many there are."""


class AdagradNorm(Addressed):
    """b^2 += |g|^2 over all parameters, x -= lr g / b, where b starts from `b0`.

    AdaGrad-Norm (Ward, Wu & Bottou, JMLR 2020), one of the two updates of AdAdaGrad (Lau et al., arXiv 2402.11215),
    whose public code keeps a b for each row instead.

    What it remembers is one number a client, `sum`: b^2 - b0^2, with the first parameter that has a gradient.
    """

    own = ("sum",)

    def __init__(self, params: ParamsT, lr: Positive = 1e-2, b0: Positive = 1e-8) -> None:
        super().__init__(params, {"lr": lr})
        self.b0, self.stacked = b0, False

    def begin(self, tasks: Sequence[LocalTask], seed: int, stacked: bool) -> None:
        """See `Addressed`."""
        self.stacked = stacked

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See torch."""
        loss = evaluated(closure)
        moved = [(tensor, group["lr"]) for group in self.param_groups for tensor in group["params"]
                 if tensor.grad is not None]  # fmt: skip
        if not moved:
            return loss
        rows = squares(tensor.grad if self.stacked else tensor.grad[None] for tensor, _ in moved)
        state = self.state[moved[0][0]]
        state["sum"] = state.get("sum", 0) + (rows if self.stacked else rows[0])
        norms = (state["sum"] + self.b0**2).sqrt()
        for tensor, lr in moved:
            each = norms.view(-1, *[1] * (tensor.dim() - 1)) if self.stacked else norms
            tensor.sub_((tensor.grad / each.to(tensor.dtype)).mul_(lr))
        return loss


def squares(slopes: Iterable[Tensor]) -> Tensor:
    """Each client's sum of squares over tensors (K, *shape): (K,), in float64."""
    chunks = [chunk for slope in slopes for chunk in slope.reshape(len(slope), -1).split(CHUNK, 1)]
    rows = [chunk.split(max(1, CHUNK // chunk.shape[1])) for chunk in chunks]
    return torch.stack([torch.cat([row.double().square().sum(1) for row in each]) for each in rows]).cumsum(0)[-1]
