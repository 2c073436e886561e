"""FedAvg: the mean of a round's updates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fedsim.aggregators.rounds import Rounds
from fedsim.combiners.combiner import Combiner
from fedsim.vector import weighted_sum
from fedsim.work import Update


@dataclass
class FedAvg(Rounds):
    """Steps along the mean of the updates heard, each weighted by its client's examples.

    McMahan et al., AISTATS 2017, Algorithm 1. The mean is over those who take part, so who rarely does counts less.
    """

    weights: Literal["examples", "uniform", "expected"] = "examples"
    """`uniform`: over how many are heard; `expected`: over how many are heard on average, as privacy asks for."""
    combiner: Combiner | None = None
    """Makes one direction of updates that conflict, where they count alike; None: their mean."""
    memory: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    """What the combiner has written down."""

    @property
    def defensible(self) -> bool:
        """In place of the mean; then each counts for as much as any other, whatever the weights."""
        return self.combiner is None

    @property
    def linear(self) -> bool:
        """Unless somebody defends it."""
        return self.defence is None and self.combiner is None

    @property
    def expected(self) -> float | None:
        """The goal, the cohort, or where all are asked how many take part on average."""
        if self.weights == "examples" or self.defence is not None or self.combiner is not None:
            return None
        if self.cohort != "all":
            return self.goal or self.cohort
        share = self.census.share
        return None if share is None else sum(share(client) for client in self.census.examples)

    def direction(self, updates: list[Update]) -> Tensor:
        """Their mean."""
        if self.defence is not None:
            return self.defended(self.defence, updates)
        if self.combiner is not None:
            rows = torch.stack([update.delta.double() for update in updates])
            names = [update.client for update in updates]
            return self.combiner.combine(rows, names, self.version, self.memory).to(updates[0].delta.dtype)
        weights = shares(updates) if self.weights == "examples" else self.equal(len(updates))
        return weighted_sum([update.delta for update in updates], weights)

    def equal(self, heard: int) -> list[float]:
        """The same weight for each of those heard. ValueError if nobody knows how many to expect."""
        if self.weights == "uniform":
            return [1 / heard] * heard
        if self.expected is None:
            raise ValueError("weights: expected: it is not known how many take part where clients come and go or break")
        return [1 / self.expected] * heard


def shares(updates: list[Update]) -> list[float]:
    """What part of all their examples each client holds; equal parts where nobody holds any."""
    total = sum(update.examples for update in updates)
    return [update.examples / total if total else 1 / len(updates) for update in updates]
