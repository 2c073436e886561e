"""FedAsync: every arrival is mixed in at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsim.aggregators.aggregator import Aggregator, Count
from fedsim.staleness import Discount, Polynomial
from fedsim.work import Update


@dataclass
class FedAsync(Aggregator):
    """Moves the model a discounted share of the way to each model that arrives.

    Xie et al., 2019, Algorithm 1: x <- (1 - a) x + a x_client with a = mixing * discount(staleness).
    """

    concurrency: Count = 10
    mixing: Annotated[float, Field(gt=0, le=1)] = 0.6
    discount: Discount = Polynomial(0.5)
    sent: dict[int, Tensor] = field(default_factory=dict, init=False)
    """The model that each busy client started from."""

    def take(self, update: Update) -> bool:
        """Mix and count a version."""
        model = self.sent.pop(update.client) + update.delta
        share = self.mixing * self.discount(self.version - update.version)
        self.params = torch.lerp(self.params, model, share)
        self.version += 1
        return True

    def refill(self) -> list[int]:
        """Fill the free slots, and remember what they start from."""
        started = self.roster.start(self.concurrency - len(self.roster.busy))
        self.sent.update(dict.fromkeys(started, self.params))
        return started
