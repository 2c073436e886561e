"""What models say a little way off their parameters, in as many directions as a population has pairs; forward only."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import linear

from fedsim.gradients import Gradients
from fedsim.gradients.closed_form import ClosedForm

Factors = tuple[Tensor, ...]
"""A parameter's move for each of P pairs: A (P, m, r) and B (P, n, r) of the matrix A B^T; or the move itself alone."""
SIGNS = (1.0, -1.0)
"""The two of a pair go opposite ways."""


def around(source: Gradients, params: Mapping[str, Tensor], x: Tensor, moves: Mapping[str, Factors]) -> Tensor:
    """Scores (P, 2, B, outputs) of one client's population on its batch x (B, *shape).

    Dense networks compute all members at once and never make a moved matrix; of other modules every member is made,
    one at a time.
    """
    if isinstance(source, ClosedForm):
        return _dense(source, params, x.flatten(1), moves)
    pairs = len(next(iter(moves.values()))[0])
    said = [source.scores(member(params, moves, pair, sign), x.unsqueeze(0)) for pair in range(pairs) for sign in SIGNS]
    return torch.cat(said).unflatten(0, (pairs, 2))


def member(params: Mapping[str, Tensor], moves: Mapping[str, Factors], pair: int, sign: float) -> dict[str, Tensor]:
    """One of a pair, made: name -> (1, *shape)."""
    return {
        name: (part + sign * whole(tuple(factor[pair] for factor in moves[name])).view_as(part)).unsqueeze(0)
        for name, part in params.items()
    }


def whole(factors: Factors) -> Tensor:
    """The moves that factors stand for, (..., m, n)."""
    return factors[0] if len(factors) == 1 else factors[0] @ factors[1].mT


def weighted(factors: Factors, weights: Tensor) -> Tensor:
    """The sum of pairs' moves, each by its weight (P,)."""
    left, *right = factors
    left = left * weights.view(-1, *[1] * (left.dim() - 1))
    return torch.einsum("pmr,pnr->mn", left, right[0]) if right else left.sum(0)


def _dense(source: ClosedForm, params: Mapping[str, Tensor], x: Tensor, moves: Mapping[str, Factors]) -> Tensor:
    """x W^T + b + s (x B) A^T + s c in each layer; the first one's x W^T is the same for all."""
    given, signs = x.view(1, 1, *x.shape), x.new_tensor(SIGNS).view(2, 1, 1)
    *inner, last = source.layers
    for weight, bias in inner:
        given = _layer(given, signs, params[weight], params[bias], moves[weight], moves[bias]).relu_()
    return _layer(given, signs, *(params[name] for name in last), *(moves[name] for name in last))


def _layer(given: Tensor, signs: Tensor, weight: Tensor, bias: Tensor, turn: Factors, shift: Factors) -> Tensor:
    """Of inputs (P or 1, 2 or 1, B, n), outputs (P, 2, B, m)."""
    left, *right = turn
    change = given
    for factor in right:
        change = change @ factor.unsqueeze(1)
    change = change @ left.mT.unsqueeze(1) + shift[0].view(len(left), 1, 1, -1)
    return linear(given, weight, bias) + signs * change
