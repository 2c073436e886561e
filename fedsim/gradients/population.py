"""What models say a little way off their parameters, in as many directions as a population has pairs; forward only."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from fedsim_kernels.language import launches
from fedsim_kernels.low_rank_product import THIN, low_rank_product
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
    given, (*inner, last) = x.view(1, 1, *x.shape), source.layers
    for layer in inner:
        given = _layer(given, params, moves, *layer).relu_()
    return _layer(given, params, moves, *last)


def _layer(given: Tensor, params: Mapping[str, Tensor], moves: Mapping[str, Factors], weight: str, bias: str) -> Tensor:
    """x W^T + b + s ((x B) A^T + c): of inputs (P or 1, 2 or 1, B, n), as the first ones are everybody's, (P, 2, B, m).

    x W^T of the first inputs is computed once for all.
    """
    left, *right = moves[weight]
    if right and left.shape[2] <= THIN and launches(given):
        return _layer_in_one_pass(given, params, moves, weight, bias)
    change = given
    for factor in right:
        change = change @ factor.unsqueeze(1)
    change = change @ left.mT.unsqueeze(1) + moves[bias][0].view(len(left), 1, 1, -1)
    return linear(given, params[weight], params[bias]) + given.new_tensor(SIGNS).view(2, 1, 1) * change


def _layer_in_one_pass(
    given: Tensor, params: Mapping[str, Tensor], moves: Mapping[str, Factors], weight: str, bias: str
) -> Tensor:
    """The same, every member's product by itself."""
    (left, right), [shift] = moves[weight], moves[bias]
    signs = given.new_tensor(SIGNS).repeat(len(left))
    each = given.expand(len(left), len(SIGNS), *given.shape[2:]).flatten(0, 1)
    one, other = (factor.repeat_interleave(len(SIGNS), 0) for factor in (left, right))
    product = low_rank_product(each, params[weight], one, other, signs).unflatten(0, (len(left), len(SIGNS)))
    return product + params[bias] + signs.view(len(left), len(SIGNS), 1, 1) * shift.view(len(left), 1, 1, -1)
