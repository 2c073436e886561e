"""The next character at every position, by an attention that is full or sparse: SSA and its rivals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsim.models.transformer import LOOKS, MODES
from fedsim.objectives.objective import Plain, Step
from fedsim.objectives.term import Term
from fedsim.rng import chance


@dataclass(frozen=True, kw_only=True)
class SparseAttention(Plain):
    """Cross-entropy of what follows each character, plus `alignment` times how far the two attentions are apart.

    With `random`, each client draws for each of its steps, evenly, which attention the whole model passes on; with
    alignment that is SSA (2511.20102), whose weight is 10, and whose rivals are `full`, `sparse` and `random` without.
    Both attentions are computed, and paid for, whatever is passed on.
    """

    attention: Literal["full", "sparse", "random"] = "random"
    alignment: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0

    outputs: int
    """How many characters there are, given by the run."""
    shape: tuple[int, ...]
    """Of an example, given by the run."""

    classes: ClassVar[bool] = True

    @property
    def further(self) -> int:
        """See `Objective`: of characters after all others but the last, and what attention does."""
        return self.outputs * (self.shape[0] - 1) + len(LOOKS)

    def terms(self, step: Step) -> Sequence[Term]:
        """See `Objective`."""
        modes = [MODES.index(self.mode(step, k)) for k in range(len(step.tasks))]
        points, y = lessons(step.x, step.y, step.y.new_tensor(modes).unsqueeze(1))
        return (Term("loss", points, y, NextCharacters(self.alignment)),)

    def mode(self, step: Step, k: int) -> str:
        """What a client passes on at this step."""
        if self.attention != "random":
            return self.attention
        task = step.tasks[k]
        return MODES[int(chance(step.seed, "attention", task.client, task.ordinal, step.number) * len(MODES))]


def lessons(x: Tensor, y: Tensor, mode: Tensor) -> tuple[Tensor, Tensor]:
    """Points (..., 1 + T), with the mode in front, and labels (..., T), of characters x (..., T) and what follows, y.

    A label is what follows the last character, then what follows each other one.
    """
    front = mode.expand(y.shape).unsqueeze(-1)
    return torch.cat((front, x), -1), torch.cat((y.unsqueeze(-1), x[..., 1:]), -1)


@dataclass(frozen=True)
class NextCharacters:
    """A `Loss` of a transformer's scores, with labels (B, T) as `lessons` makes them."""

    alignment: float

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        """See `Loss`."""
        chances = scores[:, : -len(LOOKS)].unflatten(1, (y.shape[1], -1)).log_softmax(2)
        return self.alignment * scores[:, -len(LOOKS)] - chances.gather(2, y.unsqueeze(2)).squeeze(2).mean(1)

    def slope(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Loss`; y is (K, B, T)."""
        chances, label = scores[:, : -len(LOOKS)].unflatten(1, (y.shape[2], -1)).log_softmax(2), y.mT.unsqueeze(2)
        losses = self.alignment * scores[:, -len(LOOKS)] - chances.gather(2, label).squeeze(2).mean(1)
        slope = torch.zeros_like(scores)
        errors = chances.exp().scatter_add_(2, label, -torch.ones_like(label, dtype=scores.dtype))
        slope[:, : -len(LOOKS)] = errors.div_(y.shape[2]).flatten(1, 2)
        slope[:, -len(LOOKS)] = self.alignment
        return losses, slope.div_(y.shape[1]).mT
