"""CLASSP: weights that have learned much learn slowly."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import hardshrink
from torch.optim.optimizer import ParamsT

from fedsim.optimizers.addressed import Addressed, Closure, evaluated
from fedsim.optimizers.recipe import Positive
from fedsim.work import LocalTask

Finite = Annotated[float, Field(allow_inf_nan=False)]
Trainings = Annotated[int, Field(ge=0)]


class Classp(Addressed):
    """CLASSP (Ludwig, arXiv 2405.09637), for tasks one after another: what it remembers is the memory of old tasks.

    Where g^2 > threshold: S += |g|^p, then w -= lr g / (eps + S)^(1/p); other weights and their S stay as they are.
    Power 2 with a threshold below 0 is Adagrad. S includes the current gradient, as in the paper's pseudo-code; its
    equation ends before that.

    The published class does something else (`gate: committed`): it compares whether any g^2 of a tensor is not 0, as 1
    or 0, with the threshold, so that below 1 all weights move and from 1 on none does; and S sums |g| whatever p is.

    Old tasks count only if S lives on: `optimizer_state: kept`. In the protocol of the paper's experiment S is gathered
    during the first task, which is learned without the decay: `plain` trainings of each client, or in a loop of one's
    own a parameter group whose `decay` is False until then.

    Args:
        params: as of any torch optimizer.
        lr: with decay a step may at first be as long as that in each weight.
        power: p. Clients share no stack if it is neither 1 nor 2, as other roots are not exact.
        threshold: what g^2 has to exceed, so |g| its root.
        eps: added to S, inside the root.
        gate: the paper's, of each weight, or the published class's.
        decay: whether S divides the step.
        plain: how many of a client's first trainings do without it all the same.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Positive = 0.2,
        power: Positive = 1.0,
        threshold: Finite = 0.5,
        eps: Positive = 1e-5,
        gate: Literal["elementwise", "committed"] = "elementwise",
        decay: bool = True,
        plain: Trainings = 0,
    ) -> None:
        if eps ** (1 / power) < torch.finfo(torch.float32).tiny:
            raise ValueError(f"eps^(1/power) has to be a normal number of 32 bits, not {eps ** (1 / power):g}")
        settings = {"lr": lr, "power": power, "threshold": threshold, "eps": eps, "gate": gate, "decay": decay}
        super().__init__(params, settings)
        self.plain, self.stacked = plain, False
        self.ordinals = [plain]
        """How many trainings came before this one; a loop of one's own is past the plain ones."""

    @staticmethod
    def stackable(power: float = 1.0, **others: object) -> bool:
        """Whether its arithmetic is the same wherever in memory a number stands."""
        return power in (1, 2)

    def begin(self, tasks: Sequence[LocalTask], seed: int, stacked: bool) -> None:
        """See `Addressed`."""
        self.ordinals, self.stacked = [task.ordinal for task in tasks], stacked

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See torch."""
        loss = evaluated(closure)
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None:
                    self._move(tensor, tensor.grad, group)
        return loss

    def _move(self, tensor: Tensor, slopes: Tensor, group: dict[str, Any]) -> None:
        """All weights move, closed ones by 0: a pass over all costs less than a choice of each."""
        state = self.state[tensor]
        if "sum" not in state:
            state["sum"] = torch.zeros_like(tensor)
        opened = _opened(slopes, group)
        if opened is None:
            return
        grown = _power(opened.abs(), group["power"] if group["gate"] == "elementwise" else 1)
        past = state["sum"].add_(grown)
        divisor = _power(torch.add(past, group["eps"], out=grown), 1 / group["power"])
        rows = divisor if self.stacked else divisor[None]
        rows[[not group["decay"] or ordinal < self.plain for ordinal in self.ordinals[: len(rows)]]] = 1
        tensor.addcdiv_(opened, divisor, value=-group["lr"])


def _opened(slopes: Tensor, group: dict[str, Any]) -> Tensor | None:
    """The gradients of the weights that move, 0 of the others; None: no weight does."""
    if group["gate"] == "committed":  # where g is 0 throughout nothing moves anyhow
        return slopes if group["threshold"] < 1 else None
    return slopes if group["threshold"] < 0 else hardshrink(slopes, sqrt(group["threshold"]))


def _power(values: Tensor, power: float) -> Tensor:
    """values^power, in place; exact for 1, 2 and 1/2: torch's own may differ in the last bit from place to place."""
    if power == 1:
        return values
    return values.square_() if power == 2 else values.sqrt_() if power == 0.5 else values.pow_(power)
