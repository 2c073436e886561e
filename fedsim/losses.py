"""What a model's scores cost: given the labels, cross-entropy of classes or squared error of points; and by objectives.

By hand for stacks of clients, and by autograd; both are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import inf
from typing import Protocol

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional


class Loss(Protocol):
    """A loss of examples, each alone. One that is of several points for each example says of which."""

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        """Losses (B,) from scores (B, outputs); autograd goes through it."""
        ...

    def slope(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (K, B), and the slope (K, B, outputs) of their mean over B, from scores (K, outputs, B).

        For a stack of K clients, by hand; the scores are used up. Examples stand last, as then softmax runs over all
        of them at once: 17 times faster with 10 classes.
        """
        ...


class Measure(Loss, Protocol):
    """A loss that models are judged by too."""

    def measures(self, scores: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What a model is judged by: name -> (B,), of which means are taken."""
        ...


class CrossEntropy:
    """Minus the log of the chance that softmax of the scores gives to the true class; labels int64."""

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        """See `Loss`; y is (B,)."""
        return functional.cross_entropy(scores, y, reduction="none")

    def slope(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Loss`; y is (K, B)."""
        log_chance, label = scores.log_softmax(1), y.unsqueeze(1)
        losses = log_chance.gather(1, label).squeeze(1).neg_()
        slope = log_chance.exp_().scatter_add_(1, label, scores.new_tensor(-1.0).expand(label.shape))
        return losses, slope.div_(y.shape[1]).mT

    def measures(self, scores: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The share of examples whose highest score is that of their class, and the loss."""
        return {"accuracy": scores.argmax(1) == y, "loss": self.each(scores, y)}


class SquaredError:
    """Half the squared distance of the scores from the label, a float point of as many coordinates."""

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        """See `Loss`; y is (B, outputs)."""
        return (scores - y).square().sum(1) / 2

    def slope(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Loss`; y is (K, B, outputs)."""
        error = scores.sub_(y.mT)
        return error.square().sum(1).div_(2), error.div_(y.shape[1]).mT

    def measures(self, scores: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The loss alone."""
        return {"loss": self.each(scores, y)}


class SoftCrossEntropy:
    """Cross-entropy to chances (outputs,) that sum to 1, in place of a label.

    It is the divergence from these chances but for their entropy, which no score changes: their slopes are the same.
    """

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        """See `Loss`; y is (B, outputs)."""
        return -(y * scores.log_softmax(1)).sum(1)

    def slope(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Loss`; y is (K, B, outputs)."""
        log_chance = scores.log_softmax(1)
        losses = (log_chance * y.mT).sum(1).neg_()
        return losses, log_chance.exp_().sub_(y.mT).div_(y.shape[1]).mT


class WeightedCrossEntropy:
    """Cross-entropy to masses (outputs,) in place of a label: their sum is what an example weighs."""

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        """See `Loss`; y is (B, outputs)."""
        return -(y * scores.log_softmax(1)).sum(1)

    def slope(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Loss`; y is (K, B, outputs)."""
        log_chance = scores.log_softmax(1)
        losses = -(log_chance * y.mT).sum(1)
        return losses, (log_chance.exp() * y.sum(2).unsqueeze(1) - y.mT).div(y.shape[1]).mT


@dataclass(frozen=True)
class Entropy:
    """Of the chances themselves, in [0, ln outputs]; slopes are those of the mean over examples below `bound` alone.

    No label is looked at: y says which examples may count, 1, and which not, 0. If none counts the slope is 0.
    """

    bound: float = inf

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        """See `Loss`; y is (B,). All entropies, though some have no slope."""
        log_chance = scores.log_softmax(1)
        entropy = -(log_chance.exp() * log_chance).sum(1)
        return entropy.detach() + self._shares(entropy.detach(), y) * (entropy - entropy.detach())

    def slope(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Loss`; y is (K, B)."""
        log_chance = scores.log_softmax(1)
        chance = log_chance.exp()
        entropy = -(chance * log_chance).sum(1)
        slope = chance.mul_(log_chance.add_(entropy.unsqueeze(1))).neg_()
        return entropy, slope.mul_(self._shares(entropy, y).unsqueeze(1)).div_(y.shape[1]).mT

    def _shares(self, entropy: Tensor, y: Tensor) -> Tensor:
        """What each counts for in the mean over all of them, (..., B)."""
        counts = (entropy < self.bound) & (y > 0)
        return counts * (y.shape[-1] / counts.sum(-1, keepdim=True).clamp_min(1))


@dataclass(frozen=True)
class TradeOff:
    """Cross-entropy at an example, plus beta times the divergence of the chances p there from those p' where it moved.

    CE(z, y) + beta KL(p || p'): TRADES (Zhang et al., Theoretically Principled Trade-off between Robustness and
    Accuracy, ICML 2019), its surrogate loss. Scores are those z of B examples, then those z' of their moved selves, 2 B
    along one axis; losses are of B examples. Slopes go through both:

        dL/dz' = beta (p' - p),  dL/dz = p - onehot(y) + beta p (log p - log p' - KL)
    """

    beta: float

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        """See `Loss`; scores are (2 B, outputs), y is (B,)."""
        clean, moved = scores.log_softmax(1).chunk(2)
        divergence = (clean.exp() * (clean - moved)).sum(1)
        return self.beta * divergence - clean.gather(1, y.unsqueeze(1)).squeeze(1)

    def slope(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Loss`; scores are (K, outputs, 2 B), the slope is (K, 2 B, outputs), y is (K, B)."""
        clean, moved = scores.log_softmax(1).chunk(2, dim=2)
        chance, apart, label = clean.exp(), clean - moved, y.unsqueeze(1)
        divergence = (chance * apart).sum(1, keepdim=True)
        losses = (self.beta * divergence - clean.gather(1, label)).squeeze(1)
        there = self.beta * (moved.exp() - chance)
        here = (chance * (1 + self.beta * (apart - divergence))).scatter_add_(1, label, -torch.ones_like(divergence))
        return losses, torch.cat((here, there), 2).div_(y.shape[1]).mT


class Derived(ABC):
    """A loss whose slopes are autograd's."""

    @abstractmethod
    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        """See `Loss`."""

    def slope(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Loss`."""

        def mean(rows: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            losses = self.each(rows, y)
            return losses.mean(), losses

        slope, losses = vmap(grad(mean, has_aux=True))(scores.mT, y)
        return losses, slope


@dataclass(frozen=True)
class Of:
    """A loss of some of the scores, from `first` to before `end`."""

    loss: Loss
    first: int
    end: int | None = None

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        """See `Loss`."""
        return self.loss.each(scores[:, self.first : self.end], y)

    def slope(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Loss`; of the other scores it is 0."""
        losses, slope = self.loss.slope(scores[:, self.first : self.end], y)
        after = scores.shape[1] - self.first - slope.shape[2]
        return losses, functional.pad(slope, (self.first, after))


def loss_of(y: Tensor) -> Measure:
    """The loss for such labels: classes are integers, points are floats."""
    return SquaredError() if y.is_floating_point() else CrossEntropy()
