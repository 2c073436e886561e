"""Learning a policy from what others did: ODICE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from fedsim.losses import Derived
from fedsim.objectives.objective import Plain, Step
from fedsim.objectives.term import Term

Share = Annotated[float, Field(ge=0, le=1)]
MOST = 100.0
"""Of a move's weight in the policy's loss, as in the authors' code."""


def conjugate(y: Tensor) -> Tensor:
    """f*(y) of Pearson's chi^2: y w - (w - 1)^2 with w = max(y / 2 + 1, 0). Below y = -2 it is -1 and has no slope."""
    w = (y / 2 + 1).clamp_min(0)
    return y * w - (w - 1).square()


@dataclass(frozen=True)
class Forward(Derived):
    """f*(target - V), of the last score V of a state."""

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        """See `Loss`; y is (B,), the targets."""
        return conjugate(y - scores[:, -1])


@dataclass(frozen=True)
class Backward(Derived):
    """f*(rest + discount V), of the last score V of the state that follows."""

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        """See `Loss`; y is (B, 2), rests and discounts."""
        return conjugate(y[:, 0] + y[:, 1] * scores[:, -1])


@dataclass(frozen=True)
class Value(Derived):
    """The last score."""

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        """See `Loss`."""
        return scores[:, -1]


@dataclass(frozen=True)
class Weighted(Derived):
    """Cross-entropy of all but the last score, by an example's weight."""

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        """See `Loss`; y is (B, 2), moves and weights."""
        return y[:, 1] * functional.cross_entropy(scores[:, :-1], y[:, 0].long(), reduction="none")


@dataclass(frozen=True, kw_only=True)
class Odice(Plain):
    """Values V of states by the dual of a divergence from the data, and the policy that this weights their moves to.

    Mao et al., ODICE (ICLR 2024). With residuals y_f = r + (1 - d) gamma V'(s') - V(s) and y_b = r + (1 - d) gamma
    V(s') - V'(s), where V' is a moving average of V: `forward` lambda f*(y_f), `backward` lambda eta f*(y_b), `linear`
    (1 - lambda) V(s), and `policy` min(w, 100) (-log pi(a | s)). With the source `combined: {combiner: orthogonal}` it
    is ODICE; with the plain one the true gradient; with eta 0 the semi-gradient. Defaults are the paper's code's.

    For data of `grid_world`: what follows an example is the next one, each move's reward is -1, and the last cell ends
    a walk. The model gives the moves' scores and one more, V. A client keeps V' from training to training.
    """

    lam: Share = 0.6
    """lambda."""
    eta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    gamma: Share = 0.99
    rate: Share = 0.005
    """Of the moving average."""
    weights: Literal["paper", "code"] = "paper"
    """w: max(y_f / 2 + 1, 0), or what the authors' code has, max(y_f, 0)."""
    classes: ClassVar[bool] = True
    points: ClassVar[int] = 2
    losses: ClassVar[int] = 4
    remembers: ClassVar[bool] = True

    @property
    def further(self) -> int:
        """See `Objective`: V."""
        return 1

    @property
    def effort(self) -> float:
        """See `Objective`: two states are learnt from, and looked at by V' and V before."""
        return 2 + 1

    def terms(self, step: Step) -> Sequence[Term]:
        """See `Objective`."""
        after, slow = step.look_up(step.rows + 1)[0], step.layout.unflatten(self.average(step))
        goes_on = self.gamma * (1 - after[..., -1])
        before, then = (step.source.scores(slow, states)[..., -1] for states in (step.x, after))
        target = goes_on * then - 1
        residual = target - step.source.scores(step.params, step.x)[..., -1]
        w = (residual / 2 + 1 if self.weights == "paper" else residual).clamp(0, MOST)
        return (
            Term("forward", step.x, target, Forward(), weight=self.lam),
            Term("backward", after, torch.stack((-1 - before, goes_on), -1), Backward(), weight=self.lam * self.eta),
            Term("linear", step.x, target, Value(), weight=1 - self.lam),
            Term("policy", step.x, torch.stack((step.y.to(w), w), -1), Weighted()),
        )

    def average(self, step: Step) -> Tensor:
        """V', (K, P): it follows where the client is now."""
        present = step.layout.join(dict(step.params))
        for own, params in zip(step.memory, present, strict=True):
            last = own.get("average", params)
            own["average"] = last + self.rate * (params - last)
        return torch.stack([own["average"] for own in step.memory])
