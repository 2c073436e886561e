"""Optimizers that draw, or that need to know which tensors are several clients' at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

from fedsim.work import LocalTask

Closure = Callable[[], float]
"""Computes the loss anew, with gradients, and returns it: what torch lets any optimizer ask for."""


class Addressed(Optimizer, ABC):
    """Used on its own, its parameters are one model's. In a client's local training it is told whose they are."""

    own: ClassVar[Collection[str]] = ()
    """What it remembers, by name, in shapes of its own: of some parameters, (K, ...) of a stack, (...) of one client.

    All else has to be like the parameters, or one number for all clients and parameters.
    """

    @abstractmethod
    def begin(self, tasks: Sequence[LocalTask], seed: int, stacked: bool) -> None:
        """Before the first step: parameters are those of these tasks' clients, (K, *shape) if `stacked`.

        All that it draws has to be addressed by the seed, the client and the training's ordinal, so that it is the same
        in whatever company a client trains.
        """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See torch, which would turn all tensors into the parameters' type: places into floats of 24 bits."""
        super().load_state_dict(state_dict)
        params = [tensor for group in self.param_groups for tensor in group["params"]]
        for place, memory in state_dict["state"].items():
            for name in memory.keys() & set(self.own):
                self.state[params[place]][name] = memory[name].clone().to(params[place].device)


def evaluated(closure: Closure | None) -> float | None:
    """The loss that a step is to return, if there is a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
