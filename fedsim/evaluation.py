"""How good a model is: on the test set, or on each client's own examples; and how good those of peers are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.binarised import Indicators
from fedsim.data import Dataset, Parts
from fedsim.errors import ScenarioError
from fedsim.exams import Exam
from fedsim.gradients import Gradients
from fedsim.losses import loss_of
from fedsim.models.normalisation import estimated, fixed
from fedsim.objectives import PGD
from fedsim.vector import Layout, mean
from fedsim.wire.codec import generator
from fedsim.work import Measured

Move = Callable[[Tensor, Tensor, int], Tensor]
"""Of examples, their labels and the number of their chunk: examples in their places."""


class Shares:
    """Examples that are shared out, and how a model does on them; measured in chunks, to bound the memory.

    Sorted by example, so that one that several clients hold is computed once (twice, if it lies on a chunk's border).
    """

    def __init__(self, x: Tensor, y: Tensor, parts: Parts, chunk: int) -> None:
        """Of `parts`, positions in `x` (n, *shape) and `y` (n, ...), in chunks of so many."""
        places = np.concatenate(parts.indices)
        order = np.argsort(places, kind="stable")
        self.x, self.loss, self.sizes = x, loss_of(y), np.array(parts.sizes)
        self.owner = np.repeat(np.arange(len(self.sizes)), self.sizes)[order]
        rows = torch.from_numpy(places[order]).to(x.device)
        own = None if parts.labels is None else torch.from_numpy(np.concatenate(parts.labels)[order]).to(y.device)
        labels = y[rows] if own is None else own
        distinct = (part.unique_consecutive(return_inverse=True) for part in rows.split(chunk))
        self.chunks = [(*map(_span, pair), y) for pair, y in zip(distinct, labels.split(chunk), strict=True)]

    def measure(self, scores_of: Callable[[Tensor], Tensor], move: Move | None = None) -> dict[str, np.ndarray]:
        """Each client's means by name, float64 (clients,), summed in float64; NaN for those who hold nothing.

        `move` puts other examples in their places.
        """
        if move is None:
            chunks = [self.loss.measures(scores_of(self.x[rows])[copies], y) for rows, copies, y in self.chunks]
        else:
            moved = [(move(self.x[rows][copies], y, number), y) for number, (rows, copies, y) in enumerate(self.chunks)]
            chunks = [self.loss.measures(scores_of(x), y) for x, y in moved]
        each = {name: torch.cat([chunk[name] for chunk in chunks]).cpu().numpy() for name in chunks[0]}
        # numpy sums in float64 and always in the same order, which a GPU would not
        sums = {name: np.bincount(self.owner, values, len(self.sizes)) for name, values in each.items()}
        with np.errstate(invalid="ignore"):
            return {name: total / self.sizes for name, total in sums.items()}


def _span(places: Tensor) -> Tensor | slice:
    """Sorted places, distinct or without gaps; if they are both, as a slice, which is read without a copy."""
    first, end = int(places[0]), int(places[-1]) + 1
    return slice(first, end) if end - first == len(places) else places


@dataclass(frozen=True)
class Robust:
    """An attack on what is measured."""

    attack: PGD
    source: Gradients
    seed: int

    def move(self, named: Mapping[str, Tensor], x: Tensor, y: Tensor, number: int) -> Tensor:
        """Examples (B, *shape) of the chunk of this number, moved against a model."""
        params = {name: part.unsqueeze(0) for name, part in named.items()}
        draw = generator(self.seed, "robust evaluation", number)
        with torch.enable_grad():
            return self.attack.attack(self.source, params, x.unsqueeze(0), y.unsqueeze(0), [draw]).squeeze(0)


CALIBRATION = 32, 64
"""Batches, and examples in a batch, for the statistics of BatchNorm; Zhu et al. (ICLR 2026) take up to 32 batches."""


class Evaluator:
    """Judges flat parameters (P,) by accuracy, of classes, and loss.

    Where a partition gives clients test examples of their own, these two are means over clients, each weighted by the
    number of its training examples (so in FedStale and FedFix), else means over the test set.

    Args:
        model: computes scores; its own parameters are not used.
        layout: where they lie in the flat vector.
        dataset: what to measure on.
        parts: the clients' shares of it.
        train: measure each client's training examples too, under the labels that it sees: the objective itself. Where
            they are drawn anew for each training, the first draw.
        clients: show what the means are taken of, and their standard deviations, weighted alike.
        chunk: examples computed at once. A BatchNorm is calibrated on so many batches of so many training examples as
            `CALIBRATION` says, spread evenly over the training set.

    Raises:
        ScenarioError: if `clients` are to be shown, but nothing is measured on each.
    """

    changing: ClassVar[tuple[str, ...]] = ("_last",)

    def __init__(
        self, model: nn.Module, layout: Layout, dataset: Dataset, parts: Parts,
        train: bool = False, clients: bool = False, chunk: int = 500,
    ) -> None:  # fmt: skip
        self.model, self.layout, self.clients = model, layout, clients
        self.robust: Robust | None = None
        """Also measure where this moves the examples to: `robust_accuracy` and so on."""
        self.exam: Exam | None = None
        """Asks whatever else models are asked."""
        self.aim: Shares | None = None
        """Test examples that an attack wants to be mistaken, with the classes that it wants: `attack_success`."""
        self._last: tuple[Tensor | None, Measured] = (None, Measured())
        self.dataset, self.chunk = dataset, chunk
        self.sizes = np.array(parts.sizes)
        places = np.linspace(0, len(dataset) - 1, num=CALIBRATION[0] * CALIBRATION[1]).astype(int)
        batches = [places[first :: CALIBRATION[0]] for first in range(CALIBRATION[0])]
        self.calibration = [dataset.x[batch] for batch in batches]
        labels = [dataset.y[batch] for batch in batches]
        self.indicators = Indicators(model, list(zip(self.calibration, labels, strict=True)))
        everything = Parts([np.arange(len(dataset.y_test))])
        self.shares = {"": Shares(dataset.x_test, dataset.y_test, parts.test or everything, chunk)}
        if train:
            self.shares["train_"] = Shares(dataset.x, dataset.y, parts, chunk)
        self.of_clients = ([""] if parts.test else []) + (["train_"] if train else [])
        if clients and not self.of_clients:
            raise ScenarioError(
                "evaluate.clients: nothing is measured on each client; take train: true or a partition that shares out "
                "the test set too (label_swap, with_replacement)"
            )

    def aim_at(self, x: Tensor, y: Tensor) -> None:
        """Also measure how many of these examples are taken for these classes, as an attack wants it."""
        self.aim = Shares(x, y, Parts([np.arange(len(y))]), self.chunk)

    def __call__(self, params: Tensor) -> Measured:
        """Metrics by name: `accuracy` (in [0, 1]), `loss`, `train_loss`, `loss_std`, ...

        The same tensor as the last time is not measured again, and gives the same object.
        """
        if params is not self._last[0]:
            self._last = params, self._measure(params)
        return self._last[1]

    @torch.no_grad()
    def _measure(self, params: Tensor) -> Measured:
        named = self.layout.unflatten(params)
        with fixed(self.modules, estimated(self.model, named, self.calibration)):
            judged = self._judge(named)
            asked = self.exam.grade(self.model, named, self.dataset) if self.exam else {}
        return Measured({**judged.metrics, **self.indicators(named), **asked}, judged.clients)

    @property
    def modules(self) -> list[nn.Module]:
        """All that compute scores for it, attacks' among them."""
        attacked = getattr(self.robust and self.robust.source, "module", None)
        return [self.model] if attacked is None else [self.model, attacked]

    def scores(self, named: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Of a model with these parameters, (B, outputs), without those that it has beside them."""
        return functional_call(self.model, dict(named), (x,))[:, : self.dataset.outputs]

    def _judge(self, named: Mapping[str, Tensor]) -> Measured:
        scores = partial(self.scores, named)
        model, clients = {}, {"client": np.arange(len(self.sizes)), "examples": self.sizes}
        robust = self.robust
        moves: Mapping[str, Move | None] = {"": None, **({"robust_": partial(robust.move, named)} if robust else {})}
        for (part, shares), (kind, move) in product(self.shares.items(), moves.items()):
            own, held = part in self.of_clients, shares.sizes > 0
            found = shares.measure(scores, move)
            for name, means in {f"{part}{kind}{name}": means for name, means in found.items()}.items():
                model[name], deviation = moments(means[held], self.sizes[held] if own else np.ones(1))
                if own and self.clients:
                    model[f"{name}_std"] = deviation
                    clients[name] = means
        if self.aim is not None:
            model["attack_success"] = float(self.aim.measure(scores)["accuracy"][0])
        return Measured(model, clients if self.clients else {})


class EnsembleEvaluator:
    """Judges several models, each by itself: `accuracy`, `loss` and so on are means over them.

    Args:
        evaluator: of one model.
        clients: show each model's metrics, and their standard deviations.
        but: models, by number, that are left out everywhere: those of liars.
    """

    changing: ClassVar[tuple[str, ...]] = ("_models", "_each", "_measured")

    def __init__(self, evaluator: Evaluator, clients: bool = False, but: Collection[int] = ()) -> None:
        self.evaluator, self.clients, self.but = evaluator, clients, but
        self._models: list[Tensor] = []
        self._each: list[Mapping[str, float]] = []
        self._measured = Measured()

    def __call__(self, models: Sequence[Tensor]) -> Measured:
        """Metrics by name. A model that is the same tensor as one of the last time is not measured again."""
        models = [params for number, params in enumerate(models) if number not in self.but]
        before = {id(params): metrics for params, metrics in zip(self._models, self._each, strict=True)}
        if list(map(id, models)) != list(map(id, self._models)):
            # one after another: all at once took 0.7 times as long for logistic regression, but 7 times for a CNN
            self._each = [before.get(id(params)) or self.evaluator(params).metrics for params in models]
            self._models = list(models)
            self._measured = self._summary()
        return self._measured

    def _summary(self) -> Measured:
        columns = {name: np.array([metrics[name] for metrics in self._each]) for name in self._each[0]}
        found: dict[str, float] = {}
        for name, values in columns.items():
            found[name], deviation = moments(values, np.ones(len(values)))
            found |= {f"{name}_std": deviation} if self.clients else {}
        found |= self._together()
        names = np.array([client for client in range(len(self._models) + len(self.but)) if client not in self.but])
        facts = {"client": names, "examples": self.evaluator.sizes[names] if self.clients else []}
        return Measured(found, facts | columns if self.clients else {})

    def _together(self) -> dict[str, float]:
        """What is to be said of all of them."""
        return {}


class PeerEvaluator(EnsembleEvaluator):
    """Judges the models of peers by themselves, and by what they would be if they were merged; it merges none.

    `merged_accuracy` and so on are the mean model's, on whatever the evaluator of one model measures. `gap` is what
    merging adds to the accuracy, `consensus` the models' mean squared distance from their mean, (1/m) sum |x_k -
    mean|^2. So in the code of Zhu et al., ICLR 2026.
    """

    def _together(self) -> dict[str, float]:
        merged = mean(self._models)
        found = {f"merged_{name}": value for name, value in self.evaluator(merged).metrics.items()}
        if "merged_accuracy" in found:
            own = np.mean([metrics["accuracy"] for metrics in self._each])
            found["gap"] = found["merged_accuracy"] - float(own)
        distances = [float((params.double() - merged).square().sum()) for params in self._models]
        return found | {"consensus": sum(distances) / len(distances)}


def moments(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Weighted mean and standard deviation.

    >>> moments(np.array([1.0, 4.0]), np.array([1, 2]))
    (3.0, 1.4142135623730951)
    """
    mean = np.average(values, weights=weights)
    return float(mean), float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))
