"""FedAvg: the mean of a round's updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fedsim.aggregators.rounds import Rounds
from fedsim.defences import Defence
from fedsim.vector import weighted_sum
from fedsim.work import Update


@dataclass
class FedAvg(Rounds):
    """Steps along the mean of the updates heard, each weighted by its client's examples.

    McMahan et al., AISTATS 2017, Algorithm 1. The mean is over those who take part, so who rarely does counts less.
    """

    weights: Literal["examples", "uniform", "expected"] = "examples"
    """`uniform`: over how many are heard; `expected`: over how many are heard on average, as privacy asks for."""
    defence: Defence | None = None
    """Combines updates in place of the mean, each for as much as any other; None: the mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        asked = self.goal or (None if self.cohort == "all" else self.cohort)
        if self.defence is not None and asked is not None and asked < self.defence.least:
            raise ValueError(f"defence: needs {self.defence.least} updates a round, but {asked} are asked for")

    @property
    def linear(self) -> bool:
        """Unless somebody defends it."""
        return self.defence is None

    @property
    def expected(self) -> float | None:
        """The goal, the cohort, or where all are asked how many take part on average."""
        if self.weights == "examples" or self.defence is not None:
            return None
        if self.cohort != "all":
            return self.goal or self.cohort
        share = self.census.share
        return None if share is None else sum(share(client) for client in self.census.examples)

    def direction(self, updates: list[Update]) -> Tensor:
        """Their mean."""
        deltas = [update.delta for update in updates]
        if self.defence is not None:
            return self.defence.combine(deltas)
        return weighted_sum(deltas, shares(updates) if self.weights == "examples" else self.equal(len(updates)))

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
