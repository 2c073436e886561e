"""Two players of one model: a generator and a discriminator, each with a loss of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedsim.losses import Of, SquaredError
from fedsim.objectives.objective import Plain, Step
from fedsim.objectives.term import Term


@dataclass(frozen=True)
class Players(Plain):
    """Least squares: the discriminator is to say 1 of pictures and 0 of generated ones, the generator wants 1 of those.

    Mao et al., Least Squares Generative Adversarial Networks (ICCV 2017): each loss is half a squared error. A term's
    name is the beginning of its player's parameters' names: the losses are not one sum to be minimised, but each moves
    its own player, by the source `game`.
    """

    losses: ClassVar[int] = 2

    def terms(self, step: Step) -> Sequence[Term]:
        """See `Objective`; the discriminator's is the loss of the data's labels, 1 and 0."""
        return (
            Term("discriminator", step.x, step.y, SquaredError()),
            Term("generator", step.x, 1 - step.y[..., 1:], Of(SquaredError(), 1)),
        )
