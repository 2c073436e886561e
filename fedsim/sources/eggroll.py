"""Evolution strategies of low rank: gradients from forward passes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsim.gradients.population import Factors, around, weighted
from fedsim.losses import loss_of
from fedsim.objectives import Step
from fedsim.objectives.term import Found, Term
from fedsim.wire.codec import generator

SCORES = "scores"
"""Under this name a step's memory has the shaped scores of all steps so far, (steps, N/2)."""
FLOOR = 1e-5
"""Of the variance of fitness."""

Moves = Mapping[str, Factors]
"""Of all parameters of one client, by name."""
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Eggroll:
    """A population of N members around the client's model, and how much better each fares than its opposite: EGGROLL.

    Evolution Strategies at the Hyperscale (2511.16652), from its formulas. Members 2j and 2j + 1 go opposite ways,
    W +- sigma / sqrt(r) A_j B_j^T with normal A (m, r) and B (n, r); all see the same batch. With fitness f, minus the
    loss,

        g = -1 / sqrt(N) sum_j w_j sigma / sqrt(r) A_j B_j^T,  w_j = (f_2j - f_2j+1) / sqrt(var f + 1e-5).

    Fitness is shaped by its variance over all. Its mean, over all or over groups of pairs, drops out of w, so that
    there is nothing to choose. As g has sigma and sqrt(N) in it, plain SGD has to bear them in its rate. What a
    training reports as its loss is the members' mean. Left out: alternating signs, a baseline member, eight-bit
    weights. Convolutions are matrices, outputs x the rest.
    """

    population: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    """N."""
    rank: Count | Literal["full"] = 1
    """r; or `full`, normal matrices."""
    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    """The authors' class has 0.001."""
    noise_reuse: Count = 1
    """For how many steps of a training the same directions serve."""
    vectors: bool = True
    """Whether parameters that are no matrices move, in all their coordinates; or stand still."""

    remembers: ClassVar[bool] = False

    def effort(self, terms: int) -> float:
        """See `Source`: N forward passes, a third each."""
        return self.population / 3

    def gradients(self, step: Step, terms: Sequence[Term]) -> Found:
        """See `Source`. One client after another, as each has a population to fill a product with."""
        moves = [self.moves(step, k) for k in range(len(step.tasks))]
        tried = [self._losses(step, terms, k, own) for k, own in enumerate(moves)]
        scores = [shaped(-_total(losses, terms)) for losses in tried]
        for memory, row in zip(step.memory, scores, strict=True):
            memory[SCORES] = torch.stack([*memory.get(SCORES, ())[: step.number], row])
        return self.estimate(step, moves, scores), torch.stack([losses[0].mean((0, 1)) for losses in tried])

    def moves(self, step: Step, k: int) -> Moves:
        """Of all parameters, for one client's step, name -> factors; sigma / sqrt(r) is in A. Nothing is stored.

        A pair is a row of what is drawn under seed, client, ordinal, step and parameter.
        """
        task, time = step.tasks[k], step.number // self.noise_reuse
        drawn = {}
        for name, part in step.params.items():
            draw = generator(step.seed, "eggroll", task.client, task.ordinal, time, name)
            drawn[name] = tuple(each.to(part) for each in self._factors(tuple(part.shape[1:]), draw))
        return drawn

    def _factors(self, shape: tuple[int, ...], draw: torch.Generator) -> Factors:
        pairs = self.population // 2
        if len(shape) < 2:
            return (self.sigma * self.vectors * torch.randn(pairs, *shape, generator=draw),)
        height, width = shape[0], prod(shape[1:])
        if self.rank == "full":
            return (self.sigma * torch.randn(pairs, height, width, generator=draw),)
        left = self.sigma / sqrt(self.rank) * torch.randn(pairs, height, self.rank, generator=draw)
        return left, torch.randn(pairs, width, self.rank, generator=draw)

    def _losses(self, step: Step, terms: Sequence[Term], k: int, moves: Moves) -> list[Tensor]:
        """Of a client's members, of each term, (N/2, 2, B)."""
        own, found = {name: part[k] for name, part in step.params.items()}, []
        for term in terms:
            scores = around(step.source, own, term.points[k], moves).flatten(0, 1)
            scores = scores if term.offset is None else scores + term.offset[k]
            y = term.y[k].expand(self.population, *term.y[k].shape)
            losses, _ = (term.loss or loss_of(y)).slope(scores.mT.contiguous(), y)  # a tenth of the time of `each`
            found.append(losses.unflatten(0, (-1, 2)))
        return found

    def estimate(self, step: Step, moves: Sequence[Moves], scores: Sequence[Tensor]) -> dict[str, Tensor]:
        """Gradients, name -> (K, *shape), from each client's scores w (N/2,): all that they need beside the noise."""
        pairs = [(own, each / -sqrt(self.population)) for own, each in zip(moves, scores, strict=True)]
        return {
            name: torch.stack([weighted(own[name], weights) for own, weights in pairs]).view_as(part)
            for name, part in step.params.items()
        }


def _total(losses: Sequence[Tensor], terms: Sequence[Term]) -> Tensor:
    """What each member minimises, (N/2, 2)."""
    return torch.stack([term.weight * each.mean(2) for term, each in zip(terms, losses, strict=True)]).sum(0)


def shaped(fitness: Tensor) -> Tensor:
    """How much better the first of each pair is, (N/2,), in units of the population's standard deviation; (N/2, 2)."""
    return (fitness[:, 0] - fitness[:, 1]) / (fitness.var(correction=0) + FLOOR).sqrt()


@dataclass(frozen=True)
class Replayed:
    """The same gradients from scores that are known: they lie in the memory of the steps, and no example is seen."""

    source: Eggroll

    remembers: ClassVar[bool] = False

    def effort(self, terms: int) -> float:
        """See `Source`: nothing goes forward."""
        return 0.0

    def gradients(self, step: Step, terms: Sequence[Term]) -> Found:
        """See `Source`; losses are not known, and 0."""
        moves = [self.source.moves(step, k) for k in range(len(step.tasks))]
        scores = [memory[SCORES][step.number] for memory in step.memory]
        return self.source.estimate(step, moves, scores), step.x.new_zeros(step.x.shape[:2])
