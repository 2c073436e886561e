"""Adversarial training on examples moved to where the model's chances differ most from those at the example itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsim.losses import Loss, SoftCrossEntropy, TradeOff
from fedsim.objectives.adversarial import Adversarial
from fedsim.objectives.objective import Step
from fedsim.objectives.pgd import NotNegative
from fedsim.work import LocalTask

FORWARD = 1 / 3
"""Of a training."""


@dataclass(frozen=True, kw_only=True)
class Divergent(Adversarial):
    """Examples are moved, without a look at their labels, to where KL(p || p') is high."""

    classes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.random_start:
            raise ValueError("random_start: at an example itself the divergence from it has no slope to follow")

    @property
    def effort(self) -> float:
        """See `Objective`: chances at the examples too."""
        return super().effort + (FORWARD if self.moves else 0.0)

    def moved(self, step: Step) -> Tensor:
        """The examples' other selves, (K, B, *shape)."""
        if not self.moves:
            return step.x
        params = self.model(step)
        scores = step.source.scores(params, step.x)
        chances = (scores if step.offset is None else scores + step.offset.unsqueeze(1)).mT.softmax(1).mT
        draws = step.draws("adversarial")
        return self.attack(step.source, params, step.x, chances, draws, SoftCrossEntropy(), step.offset)


@dataclass(frozen=True, kw_only=True)
class Trades(Divergent):
    """Cross-entropy at the examples, plus `beta` times the divergence of the chances where they have been moved.

    TRADES (Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019); as the local
    objective of FAT in Zhu et al. (ICLR 2023). They start anywhere in the ball, TRADES' own at 0.001 times a normal
    draw from its centre.
    """

    beta: NotNegative = 6.0
    """1 / lambda."""
    points: ClassVar[int] = 2

    @property
    def effort(self) -> float:
        """See `Objective`: two points are learnt from."""
        return super().effort + 1.0

    @property
    def loss(self) -> Loss:
        """See `Adversarial`."""
        return TradeOff(self.beta)

    def examples(self, step: Step) -> Tensor:
        """See `Adversarial`: the examples, then their other selves."""
        return torch.cat((step.x, self.moved(step)), 1)


@dataclass(frozen=True, kw_only=True)
class CalFAT(Divergent):
    """Cross-entropy at moved examples, of scores calibrated by the log of the client's own share pi of each class.

    Chances are softmax(z + log pi) in the attack and in the loss, and softmax(z) when the model is used: classes that a
    client lacks are not unlearnt there. Chen et al., CalFAT: Calibrated Federated Adversarial Training with Label
    Skewness (NeurIPS 2022). The authors' code (cc233/CalFAT), which is what was read, takes softmax(z + 0.1 log n) of
    counts n in the attack, softmax(10 z + log n) in the loss, and starts as TRADES does; these scales are not here, and
    examples start anywhere in the ball.
    """

    labels: Sequence[Sequence[float]]
    floor: Annotated[float, Field(gt=0, lt=1)] = 1e-7
    """Added to shares, as nothing has no logarithm; the authors' code adds as much to counts."""

    discloses: ClassVar[str | None] = "its share of each class"

    def offset(self, tasks: Sequence[LocalTask]) -> Tensor:
        """See `Objective`: log pi."""
        shares = torch.tensor([self.labels[task.client] for task in tasks], dtype=torch.float64)
        return (shares + self.floor).log().to(tasks[0].params)

    def examples(self, step: Step) -> Tensor:
        """See `Adversarial`."""
        return self.moved(step)
