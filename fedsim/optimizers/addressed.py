"""Optimizers that draw, or that need to know which tensors are several clients' at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch.optim import Optimizer

from fedsim.work import LocalTask


class Addressed(Optimizer, ABC):
    """Used on its own, its parameters are one model's. In a client's local training it is told whose they are."""

    @abstractmethod
    def begin(self, tasks: Sequence[LocalTask], seed: int, stacked: bool) -> None:
        """Before the first step: parameters are those of these tasks' clients, (K, *shape) if `stacked`.

        All that it draws has to be addressed by the seed, the client and the training's ordinal, so that it is the same
        in whatever company a client trains.
        """
