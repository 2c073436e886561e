"""BO-REP: which of its examples a client should learn from, by what that does to examples that are clean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from fedsim.data import Parts
from fedsim.losses import WeightedCrossEntropy
from fedsim.objectives import Step
from fedsim.objectives.term import Found, Named, Term

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class BoRep:
    """Bilevel hyper-cleaning: the model y minimises g = mean of sigmoid(x_i) CE_i + decay |y|^2 / 2, x f = CE of clean.

    BO-REP (Hao, Gong & Liu, Bilevel Optimization under Unbounded Smoothness: A New Algorithm and Convergence Analysis,
    ICLR 2024), Algorithm 1, each client with weights of its own examples and clean ones that it holds apart:

        z <- z - nu (grad_yy g z - grad_y f),  h = grad_x f - grad_xy g z
        m <- beta m + (1 - beta) h,  x <- x - eta m / |m|

    and y takes the optimizer's step with grad_y g every `every` steps, and stands still between them. x, z and m stay
    with the client, y is what is federated. At first y alone learns, for `warm_up` steps, with x = 0. The paper's
    period has several projected steps of y, here it has one, free; its code adds 1e-4 |y| to g, and takes its "clean"
    batches from the noisy set. nu has to lie below 2 / |grad_yy g|. A correction of drift moves y all the same.
    """

    classes: int
    """Given by the run, as `parts`."""
    parts: Parts
    every: Count = 2
    """I."""
    eta: Positive = 0.05
    nu: Positive = 0.01
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9
    decay: NotNegative = 1e-4
    warm_up: Annotated[int, Field(ge=0)] = 0
    """Of each client's steps."""
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.parts.clean is None:
            raise ValueError("borep needs clean examples with each client: take partition noisy")

    def effort(self, terms: int) -> float:
        """See `Source`: H z, J z and scores, a clean gradient, and every so often one of y."""
        return 8 / 3 + 4 / 3 + 1 + 1 / self.every

    def gradients(self, step: Step, terms: Sequence[Term]) -> Found:
        """See `Source`. Losses are weighted."""
        [term] = terms
        places = [self._places(task.client, rows) for task, rows in zip(step.tasks, step.rows, strict=True)]
        for client, memory in enumerate(step.memory):
            held = len(self.parts.indices[step.tasks[client].client])
            for name, size in {"steps": 1, "x": held, "m": held, "z": step.layout.size}.items():
                memory.setdefault(name, step.tasks[client].params.new_zeros(size))
        warm = [bool(memory["steps"] < self.warm_up) for memory in step.memory]
        if not all(warm):
            self._raise(step, self.lower(term, step, places), places, warm)
        grads, losses = self.lower(term, step, places).slopes(step.source, step.params)
        moves = torch.tensor([cold or not (memory["steps"] - self.warm_up) % self.every
                              for cold, memory in zip(warm, step.memory, strict=True)])  # fmt: skip
        for memory in step.memory:
            memory["steps"] = memory["steps"] + 1
        steeper = self._decayed(grads, step.params)
        return {name: part * rows_of(moves, part) for name, part in steeper.items()}, losses

    def lower(self, term: Term, step: Step, places: Sequence[Tensor]) -> Term:
        """g, but for its decay."""
        each = zip(step.memory, places, strict=True)  # one by one: a vector's end is computed unlike its middle
        weights = torch.stack([memory["x"].sigmoid()[own] for memory, own in each])
        masses = one_hot(term.y, self.classes) * weights.unsqueeze(2)
        return replace(term, y=masses.to(term.points.dtype), loss=WeightedCrossEntropy())

    def _raise(self, step: Step, lower: Term, places: Sequence[Tensor], warm: Sequence[bool]) -> None:
        """One step of z, m and x; but of those who are still warming up."""
        z = step.layout.unflatten(torch.stack([memory["z"] for memory in step.memory]))
        bent = self._decayed(lower.curved(step.source, step.params, z), z)
        upper, _ = self._clean(step).slopes(step.source, step.params)
        z = {name: part - self.nu * (bent[name] - upper[name]) for name, part in z.items()}
        along, rows = self.along(step, lower, z), step.layout.join(z)
        for client, memory in enumerate(step.memory):
            if not warm[client]:
                memory["z"] = rows[client].clone()
                self.climb(memory, places[client], along[client])

    def along(self, step: Step, lower: Term, z: Named) -> Tensor:
        """How each example's loss changes along z, (K, B), by its label."""
        chances = step.source.scores(step.params, lower.points).mT.softmax(1)
        wrong = chances - (lower.y > 0).mT.to(chances)
        return (wrong * step.source.jvp(step.params, lower.points, z).mT).sum(1)  # in one order for any company

    def climb(self, memory: dict[str, Tensor], places: Tensor, along: Tensor) -> None:
        """m and x of a client, by h = -grad_xy g z, of its batch: sigmoid'(x_i) (grad CE_i z) / B of example i."""
        weights = memory["x"].sigmoid()
        h = -(weights * (1 - weights)) * torch.zeros_like(weights).index_add(0, places, along) / len(places)
        memory["m"] = self.beta * memory["m"] + (1 - self.beta) * h
        length = memory["m"].norm()
        memory["x"] = memory["x"] - self.eta * memory["m"] / length if length else memory["x"]

    def _clean(self, step: Step) -> Term:
        """f, on as many clean examples as there are noisy ones, with replacement."""
        assert self.parts.clean is not None
        held = [torch.from_numpy(self.parts.clean[task.client]) for task in step.tasks]
        rows = [own[torch.randint(len(own), step.rows.shape[1:], generator=draw)]
                for own, draw in zip(held, step.draws("borep"), strict=True)]  # fmt: skip
        return Term("clean", *step.look_up(torch.stack(rows).to(step.x.device)))

    def _places(self, client: int, rows: Tensor) -> Tensor:
        """Where among the client's examples rows of the dataset are."""
        held = torch.from_numpy(self.parts.indices[client]).to(rows.device)
        order = held.argsort()
        return order[torch.searchsorted(held[order], rows)]

    def _decayed(self, grads: Named, params: Named) -> dict[str, Tensor]:
        return {name: part + self.decay * params[name] for name, part in grads.items()}


def rows_of(clients: Tensor, part: Tensor) -> Tensor:
    """A number a client (K,), to be multiplied with (K, *shape)."""
    return clients.to(part).view(-1, *[1] * (part.dim() - 1))
