"""One direction out of the gradients of several losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from fedsim.combiners.combiner import Combiner
from fedsim.objectives import Step
from fedsim.objectives.term import Found, Term
from fedsim.rng import key


@dataclass(frozen=True)
class Combined:
    """What a combiner makes of the gradients of the objective's terms, each by its weight; as many times as terms.

    So where none conflicts it is the gradient of their sum. With `batches: own` each loss learns from its own part of
    the batch: the stochastic accumulation of GCond (2509.07252), whose K small batches are the one that `batch` names,
    and which costs no more than one loss. What a combiner remembers begins anew with each training.
    """

    combiner: Combiner
    batches: Literal["shared", "own"] = "shared"
    remembers: ClassVar[bool] = False

    def effort(self, terms: int) -> float:
        """See `Source`: each loss goes forward and backward by itself."""
        return float(terms) if self.batches == "shared" else 1.0

    def gradients(self, step: Step, terms: Sequence[Term]) -> Found:
        """See `Source`; the losses are those of the first term, which stand for the whole batch."""
        parts = [part(term, place, len(terms)) for place, term in enumerate(terms)] if self.batches == "own" else terms
        each = [term.slopes(step.source, step.params) for term in parts]
        rows = [term.weight * step.layout.join(grads).double() for term, (grads, _) in zip(parts, each, strict=True)]
        found = [self.direction(step, k, own) for k, own in enumerate(torch.stack(rows, 1))]
        losses = each[0][1]
        spread = torch.arange(step.y.shape[1], device=losses.device) * losses.shape[1] // step.y.shape[1]
        return step.layout.unflatten(torch.stack(found).to(step.x.dtype)), losses[:, spread]

    def direction(self, step: Step, k: int, rows: torch.Tensor) -> torch.Tensor:
        """Of one client's gradients (n, P), (P,)."""
        task = step.tasks[k]
        turn = key(step.seed, "combined", task.client, task.ordinal, step.number)
        return len(rows) * self.combiner.combine(rows, range(len(rows)), turn, step.memory[k])


def part(term: Term, place: int, count: int) -> Term:
    """Of `count` parts of its points the one at this place; the first are one longer where they cannot be equal.

    ValueError if there are fewer points than parts.
    """
    if term.points.shape[1] < count:
        raise ValueError(f"a batch of {term.points.shape[1]} has no part for each of {count} losses")
    points, y = (rows.tensor_split(count, 1)[place] for rows in (term.points, term.y))
    return replace(term, points=points, y=y)
