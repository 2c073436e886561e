"""How good the models are that clients have for themselves, where something of them stays with each.

Every client is judged by its own parameters and, where there is BatchNorm, by statistics of its own examples. With the
objective `fedrbn` there are statistics of moved examples too, by which it is judged under attack; who could not afford
any gets those of others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedsim.data import Dataset, Parts
from fedsim.evaluation import CALIBRATION, Evaluator, moments
from fedsim.models.normalisation import Statistics, estimated, fixed
from fedsim.objectives import FedRBN
from fedsim.personal import Personal
from fedsim.wire.codec import generator
from fedsim.work import ClientState, Measured

Layers = Sequence[Statistics]
"""Of all BatchNorms of a model, in order."""

SHARPNESS = 100.0
"""One over the temperature of the weights; the authors' code of FedRBN."""


@dataclass
class OwnModels:
    """Judges every client's model on the test set, or on its own test examples: means weighted by training examples."""

    evaluator: Evaluator
    personal: Personal
    dataset: Dataset
    parts: Parts
    states: Callable[[], Mapping[int, ClientState]]
    """What each client keeps, of those who keep something already."""
    objective: FedRBN | None = None
    seed: int = 0
    clients: bool = False
    """Show each client's metrics, and their standard deviations."""
    _last: tuple[list[Tensor | None], Measured] = field(default=([], Measured()), init=False)
    changing: ClassVar[tuple[str, ...]] = ("_last",)

    def __call__(self, params: Tensor) -> Measured:
        """Of a server's model (P,). The same models as the last time are not measured again."""
        states = self.states()
        own = [states[client].personal if client in states else None for client in range(len(self.parts.sizes))]
        models = [params, *own]
        if list(map(id, models)) != list(map(id, self._last[0])):
            self._last = models, self._measure([self.personal.model(params, each) for each in own])
        return self._last[1]

    @torch.no_grad()
    def _measure(self, models: Sequence[Tensor]) -> Measured:
        named = [self.evaluator.layout.unflatten(model) for model in models]
        clean = [estimated(self.evaluator.model, each, self._own(client)) for client, each in enumerate(named)]
        moved = self._moved(named, clean)
        rows = [self._judge(client, *each) for client, each in enumerate(zip(named, clean, moved, strict=True))]
        sizes, found, table = np.array(self.parts.sizes), {}, {}
        for name in rows[0]:
            table[name] = np.array([row[name] for row in rows])
            found[name], deviation = moments(table[name], sizes)
            if self.clients:
                found[f"{name}_std"] = deviation
        facts = {"client": np.arange(len(sizes)), "examples": sizes}
        return Measured(found, facts | table if self.clients else {})

    def _judge(self, client: int, named: Mapping[str, Tensor], clean: Layers, moved: Layers) -> dict[str, float]:
        """One client's metrics: clean by its statistics of clean examples, under attack by those of moved ones."""
        shares, robust = self.evaluator.shares[""], self.evaluator.robust
        place = client if self.parts.test else 0
        scores = partial(self.evaluator.scores, named)
        with fixed(self.evaluator.modules, clean):
            row = {name: float(values[place]) for name, values in shares.measure(scores).items()}
        if robust is not None:
            with fixed(self.evaluator.modules, moved):
                found = shares.measure(scores, partial(robust.move, named))
            row |= {f"robust_{name}": float(values[place]) for name, values in found.items()}
        return row

    def _own(self, client: int) -> list[Tensor]:
        """Batches of a client's training examples, as many as there are but no more than are needed."""
        count, size = CALIBRATION
        rows = torch.from_numpy(self.parts.indices[client][: count * size])
        return list(self.dataset.x[rows].split(size))

    def _moved(self, named: Sequence[Mapping[str, Tensor]], clean: Sequence[Layers]) -> list[Layers]:
        """Statistics of moved examples: their own, or of others by likeness; clean ones where nobody moves any."""
        objective = self.objective
        if objective is None or not objective.affords or self.evaluator.robust is None:
            return list(clean)
        afford = sorted(objective.affords)
        theirs = {client: estimated(self.evaluator.model, named[client], self._attacked(client, named[client]))
                  for client in afford}  # fmt: skip
        known = [(clean[client], theirs[client]) for client in afford]
        given = [propagated(own, known) if objective.propagate else own for own in clean]
        return [theirs.get(client, others) for client, others in enumerate(given)]

    def _attacked(self, client: int, named: Mapping[str, Tensor]) -> list[Tensor]:
        objective, robust = self.objective, self.evaluator.robust
        assert objective is not None
        assert robust is not None
        rows = torch.from_numpy(self.parts.indices[client][: CALIBRATION[0] * CALIBRATION[1]])
        labels = self.dataset.y[rows].split(CALIBRATION[1])
        lone = {name: part.unsqueeze(0) for name, part in named.items()}
        moved = []
        for number, (x, y) in enumerate(zip(self._own(client), labels, strict=True)):
            draw = generator(self.seed, "propagation", client, number)
            with torch.enable_grad():
                moved.append(objective.attack(robust.source, lone, x[None], y[None], [draw])[0])
        return moved


def propagated(own: Layers, known: Sequence[tuple[Layers, Layers]]) -> Layers:
    """Statistics of moved examples for a client whose clean ones are `own`, from others' clean and moved ones.

    FedRBN: their mean, weighted by softmax(likeness / temperature), where likeness is the mean over layers of the
    cosine similarities of clean means and of clean variances.
    """
    likeness = torch.stack([alike(own, clean) for clean, _ in known])
    weights = (SHARPNESS * likeness).softmax(0)
    layers = zip(*(moved for _, moved in known), strict=True)
    return [tuple(sum(weight * part for weight, part in zip(weights, parts, strict=True))
                  for parts in zip(*layer, strict=True)) for layer in layers]  # type: ignore[misc]  # fmt: skip


def alike(one: Layers, other: Layers) -> Tensor:
    """In [-1, 1], ()."""
    pairs = [
        functional.cosine_similarity(left, right, dim=0)
        for layer, its in zip(one, other, strict=True)
        for left, right in zip(layer, its, strict=True)
    ]
    return torch.stack(pairs).mean()
