"""Some clients can afford adversarial training, and the others get their robustness: FedRBN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import floor
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsim.gradients import Gradients
from fedsim.losses import Loss
from fedsim.objectives.adversarial import Adversarial
from fedsim.objectives.objective import Step
from fedsim.rng import stream

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class FedRBN(Adversarial):
    """A `share` of the clients learn from clean and from moved examples, each a batch of its own; the others plainly.

    Hong, Wang, Wang and Zhou, Federated Robustness Propagation (AAAI 2023), as in the authors' code (illidanlab/FedRBN)
    with its default, no pseudo-noise calibration. Layers have BatchNorm with one scale and shift and two statistics,
    of clean and of moved examples; with `personal: norms` scale and shift stay with the client, as there. How those who
    cannot afford it get statistics of moved examples: see `fedsim.own_models`. There statistics are running averages,
    and examples are moved against them; here a batch is normalised by its own.
    """

    share: Share = 0.2
    weight: Share = 0.5
    """Of moved examples."""
    propagate: bool = True
    """Judge who cannot afford it, under attack, by others' statistics of moved examples; or by its clean ones."""
    clients: int
    seed: int
    discloses: ClassVar[str | None] = "what its layers say of its examples as a whole"

    @cached_property
    def affords(self) -> frozenset[int]:
        """Who can: so many of all clients, rounded down, drawn by the seed."""
        some = stream(self.seed, "affords").permutation(self.clients)[: floor(self.share * self.clients)]
        return frozenset(some.tolist())

    def effort_of(self, client: int) -> float:
        """See `Objective`."""
        return 2.0 + self.price if client in self.affords else 1.0

    def examples(self, step: Step) -> Tensor:
        """See `Adversarial`: examples, and their other selves; examples alone where nobody can afford others."""
        rows = [k for k, task in enumerate(step.tasks) if task.client in self.affords]
        if not rows:
            return step.x
        model = {name: part[rows] for name, part in self.model(step).items()}
        draws = step.draws("adversarial")
        moved = step.x.clone()
        moved[rows] = self.attack(step.source, model, step.x[rows], step.y[rows], [draws[k] for k in rows])
        return torch.cat((step.x, moved), 1)

    def gradients(self, source: Gradients) -> Gradients:
        """See `Objective`."""
        return Apart(source, self.weight)


@dataclass(frozen=True)
class Apart:
    """Of two halves of the points, each by itself for whatever looks at a batch as a whole: (1 - w) and w of them."""

    source: Gradients
    weight: float

    def __call__(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, loss: Loss | None = None, offset: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """See `Gradients`; examples alone are all there is where they are no more than their labels."""
        if x.shape[1] == y.shape[1]:
            return self.source(params, x, y, loss, offset)
        (clean, here), (moved, there) = (self.source(params, half, y, loss, offset) for half in x.chunk(2, dim=1))
        part = self.weight
        grads = {name: (1 - part) * grad + part * moved[name] for name, grad in clean.items()}
        return grads, (1 - part) * here + part * there

    def of_inputs(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, loss: Loss | None = None, offset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Gradients`."""
        return self.source.of_inputs(params, x, y, loss, offset)

    def scores(self, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """See `Gradients`."""
        return self.source.scores(params, x)

    def jvp(self, params: Mapping[str, Tensor], x: Tensor, direction: Mapping[str, Tensor]) -> Tensor:
        """See `Gradients`; of one batch, as controls, which look at all points as one, are refused beside this."""
        return self.source.jvp(params, x, direction)

    def hvp(
        self, params: Mapping[str, Tensor], x: Tensor, y: Tensor, direction: Mapping[str, Tensor],
        loss: Loss | None = None, offset: Tensor | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """See `Gradients`."""
        if x.shape[1] == y.shape[1]:
            return self.source.hvp(params, x, y, direction, loss, offset)
        clean, moved = (self.source.hvp(params, half, y, direction, loss, offset) for half in x.chunk(2, dim=1))
        return {name: (1 - self.weight) * part + self.weight * moved[name] for name, part in clean.items()}
