"""FedBuff: buffered asynchronous aggregation."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedsim.aggregators.aggregator import Aggregator, Count, Rate, in_client_order
from fedsim.staleness import Discount, Polynomial
from fedsim.vector import weighted_sum
from fedsim.work import Update


@dataclass
class FedBuff(Aggregator):
    """Keeps `concurrency` clients at work and steps whenever `goal` updates have arrived, however stale.

    Nguyen et al., AISTATS 2022, Algorithm 1: a freed slot is refilled at once, the step is the sum of discounted
    updates over the goal (not over the sum of discounts).
    """

    concurrency: Count = 10
    goal: Count = 10
    discount: Discount = Polynomial(0.5)
    lr: Rate = 1.0
    buffer: list[Update] = field(default_factory=list, init=False)

    def take(self, update: Update) -> bool:
        """Into the buffer; a full buffer is a step."""
        self.buffer.append(update)
        if len(self.buffer) == self.goal:
            self.step()
        return True

    def step(self) -> None:
        """Move along the buffer's discounted mean and empty it."""
        updates = in_client_order(self.buffer)
        weights = [self.lr / self.goal * self.discount(self.version - update.version) for update in updates]
        self.params = self.params + weighted_sum([update.delta for update in updates], weights)
        self.version += 1
        self.buffer = []

    def refill(self) -> list[int]:
        """Fill the free slots."""
        return self.roster.start(self.concurrency - len(self.roster.busy))
