"""Gradients of a game: each player's own loss moves its own parameters, all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsim.objectives import Step
from fedsim.objectives.term import Found, Term
from fedsim.optimizers import Recipe

Multiplier = Annotated[float, Field(allow_inf_nan=False)]
Named = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Game:
    """Simultaneous gradient descent of players, with explicit regularisation against the drift of its steps.

    Rosca, Wu, Dherin and Barrett, Discretization Drift in Two-Player Games (ICML 2021): steps of length lr follow, to
    second order, not the game's own flow but one in which player p has, beside its loss L_p,

        lr / 2 |grad_p L_p|^2 / 2  (self)   and   lr / 2 <grad_q L_p, sg grad_q L_q>  (interaction with player q)

    where sg is not differentiated. `own` and `interaction` are the multipliers of these two as regularisers that are
    added; -1 cancels the term. The paper cancels the interaction alone. Terms of the objective are the players'
    losses, each named as its parameters' names begin. lr is the optimizer's, which has to be plain SGD. Both factors
    of the interaction are taken on the same batch, which biases their product; the paper's unbiased estimate halves it.
    """

    own: Multiplier = 0.0
    interaction: Multiplier = 0.0
    optimizer: Recipe
    """The clients', given by the run."""
    remembers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        plain = isinstance(self.optimizer, Recipe) and self.optimizer.momentum == 0
        if (self.own or self.interaction) and (not plain or self.optimizer.arguments.get("weight_decay")):
            raise ValueError("the drift is that of plain gradients: take optimizer sgd, without momentum and decay")

    def effort(self, terms: int) -> float:
        """See `Source`: each loss goes forward and backward; a product with curvature is 8/3 for each and each."""
        curvatures = bool(self.own) + (terms - 1) * bool(self.interaction)
        return terms * (1 + 8 / 3 * curvatures)

    def gradients(self, step: Step, terms: Sequence[Term]) -> Found:
        """See `Source`; the losses are those of the first term."""
        each = [term.slopes(step.source, step.params) for term in terms]
        slopes = {term.name: grads for term, (grads, _) in zip(terms, each, strict=True)}
        moved: dict[str, Tensor] = {}
        for term in terms:
            own = belonging(slopes[term.name], term.name)
            moved |= self.regularised(step, term, own, slopes) if self.own or self.interaction else own
        return {name: moved[name] for name in step.params}, each[0][1]

    def regularised(self, step: Step, term: Term, own: Named, slopes: Mapping[str, Named]) -> dict[str, Tensor]:
        """A player's gradients, with those of its regularisers: H d of its own loss along constant directions."""
        found = dict(own)
        for name, multiplier in ((player, self.own if player == term.name else self.interaction) for player in slopes):
            if multiplier:
                direction = {key: torch.zeros_like(part) for key, part in step.params.items()}
                direction |= belonging(slopes[name], name)
                curved = term.curved(step.source, step.params, direction)
                half = multiplier * self.optimizer.arguments["lr"] / 2
                found = {key: part + half * curved[key] for key, part in found.items()}
        return found


def belonging(named: Named, player: str) -> dict[str, Tensor]:
    """What belongs to a player, by the beginning of its name."""
    return {name: part for name, part in named.items() if name.startswith(f"{player}.")}
