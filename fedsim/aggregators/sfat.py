"""SFAT: clients whose adversarial loss is small count for more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fedsim.aggregators.aggregator import Count
from fedsim.aggregators.fedavg import shares
from fedsim.aggregators.rounds import Rounds
from fedsim.vector import weighted_sum
from fedsim.work import Update


@dataclass
class SFAT(Rounds):
    """The mean of the updates heard, where those of the `lifted` smallest losses count 1 + alpha, the others 1 - alpha.

    Times their clients' examples, over the sum of these weights: slack federated adversarial training, Zhu et al.,
    Combating Exacerbated Heterogeneity for Robust Models in Federated Learning (ICLR 2023). As in the authors' code
    (tmlr-group/SFAT: `average_weights_alpha`, which lifts the `topk` largest of minus the loss by `pri`), but for these
    points: there the loss is that of the last local epoch, here the mean over all local steps; there the first round is
    FedAvg's. The loss is what clients minimise: with `local.objective` the adversarial one.
    """

    alpha: Annotated[float, Field(ge=0, lt=1)] = 1 / 6
    """(1 + alpha) / (1 - alpha) is their `pri`, 1.4 by default."""
    lifted: Count = 1
    """Their `topk`."""
    weights: Literal["examples", "uniform"] = "examples"
    reads_losses: ClassVar[bool] = True
    """Whether clients have to have one."""

    def direction(self, updates: list[Update]) -> Tensor:
        """Their slackened mean."""
        held = shares(updates) if self.weights == "examples" else [1 / len(updates)] * len(updates)
        by_loss = sorted(range(len(updates)), key=lambda place: updates[place].loss)  # equal ones in client order
        slack = dict.fromkeys(by_loss, 1 - self.alpha) | dict.fromkeys(by_loss[: self.lifted], 1 + self.alpha)
        counts = [slack[place] * share for place, share in enumerate(held)]
        return weighted_sum([update.delta for update in updates], [count / sum(counts) for count in counts])
