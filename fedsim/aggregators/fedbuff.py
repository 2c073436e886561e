"""FedBuff: buffered asynchronous aggregation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fedsim.aggregators.buffered import Buffered
from fedsim.aggregators.gaps import Gaps
from fedsim.roster import Importance
from fedsim.staleness import Discount, Polynomial
from fedsim.vector import weighted_sum
from fedsim.work import Update


@dataclass
class FedBuff(Buffered):
    """Steps along the sum of discounted updates, over the goal (and not over the sum of discounts).

    Nguyen et al., AISTATS 2022, Algorithm 1. With `wait` and a constant discount it is FedBuff-c as analysed with
    FedFix (Fraboni et al., JMLR 2023), whose weights are either identical or such that over time every client counts
    as much as its importance says: importance over the fraction of steps that the client is part of, as seen so far.
    """

    discount: Discount = Polynomial(0.5)
    weights: Literal["identical", "weighted"] = "identical"
    importance: Importance = "examples"
    gaps: Gaps = field(default_factory=Gaps, init=False)

    @property
    def defensible(self) -> bool:
        """Of discounted updates, where they count alike but for that."""
        return self.weights == "identical"

    def direction(self, updates: list[Update]) -> Tensor:
        """Their weighted sum."""
        discounts = [self.discount(self.version - update.version) for update in updates]
        if self.defence is not None:
            return self.defended(self.defence, updates, discounts)
        weights = [discount * self.weight(update) for discount, update in zip(discounts, updates, strict=True)]
        return weighted_sum([update.delta for update in updates], weights)

    def weight(self, update: Update) -> float:
        """Of an update that is not stale."""
        if self.weights == "identical":
            return 1 / self.goal
        step = self.version + 1
        self.gaps.heard(update.client, step)
        return self.census.importance(update.client, self.importance) * self.gaps.mean(update.client, step)
