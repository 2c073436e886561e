"""Local training: many tasks -> their results, as stacked computations. The one place where clients' numbers are made.

A result is a function of its task alone. In whose company it is computed, in which order and how many at once changes
nothing: not a bit for dense networks (`gradients.closed_form`), rounding errors for other models on a GPU.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fedsim.drift import Drift
from fedsim.gradients import Gradients, choose
from fedsim.gradients.per_example import EachExample
from fedsim.growth import Growth, Pace
from fedsim.models import check_trainable
from fedsim.models.binary import Maturing, at
from fedsim.objectives import FedRBN, Objective, Plain
from fedsim.optimizers.memory import check_memory, likeness
from fedsim.personal import Personal
from fedsim.probes import Probe
from fedsim.rng import stream
from fedsim.sources import PLAIN, Source
from fedsim.stack import Stack
from fedsim.steps.rule import Learning, Rule
from fedsim.vector import Layout
from fedsim.wire.examples import ExampleNoise
from fedsim.work import LocalResult, LocalTask

if TYPE_CHECKING:
    from fedsim.attacks.liars import Poisoning
    from fedsim.data.partitions import Parts


VISITS = 2**22
"""Numbers in the labels of all examples that a stack of clients may visit: 20 bytes each, with row and loss."""


def batches(seed: int, task: LocalTask, held: int, batch: int) -> np.ndarray:
    """Which of its `held` examples a client visits: (steps, b) with b = min(batch, held).

    Permutations of all its examples, one after another, cut into batches. The stream is `(seed, "batches", client,
    ordinal)`, so that each training of a client has its own order whoever asks for it and when.
    """
    size = min(batch, held)
    visits, draw = task.steps * size, stream(seed, "batches", task.client, task.ordinal)
    epochs = [draw.permutation(held) for _ in range(-(-visits // max(1, held)))]
    return np.concatenate([np.zeros(0, np.int64), *epochs])[:visits].reshape(task.steps, size)


class Trainer:
    """Trains clients on their parts of a dataset.

    Args:
        model: computes scores (B, outputs) from examples (B, *shape); its own parameters are not used.
        x: examples (n, *shape).
        y: their labels, which say what the loss is (`losses`): classes (n,), int64, or points (n, outputs), float.
        parts: each client's positions in the dataset, and its own labels where it has such.
        batch: examples a step; a client with fewer takes them all.
        optimizer: makes a fresh optimizer for each stack; `stackable` False on it trains clients one at a time.
        seed: names the batches together with client and ordinal.
        cohort: stack no more clients than this; None: as many as was measured to be worth it (`gradients.choose`).
        keeps: let each client's optimizer go on from where its last training (`task.kept`) has left it.
        private: clip every example's gradient, and add noise to each step's: DP-SGD.
        objective: what a step minimises; None: the loss of the examples as they are.
        poisoning: what some of them have in place of their examples, as they attack; None: all are honest.
        source: where the gradients of a step come from.
        rules: how far steps go of what the optimizer proposes, one after another.
        personal: parameters that stay with the client, by name.
        probe: what is looked at between steps.
        growth: how batches grow, from `batch`; its clients are trained one at a time.

    Raises:
        ValueError: a model with BatchNorm or Dropout; an optimizer whose memory cannot be kept, if it has to be.
    """

    changing: ClassVar[tuple[str, ...]] = ("paces",)

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, parts: Parts, batch: int,
        optimizer: Callable[[list[Tensor]], Optimizer], seed: int, cohort: int | None = None,
        keeps: bool = False, private: ExampleNoise | None = None,
        objective: Objective | None = None, poisoning: Poisoning | None = None,
        source: Source = PLAIN, rules: Sequence[Rule] = (), personal: Collection[str] = (),
        probe: Probe | None = None, growth: Growth | None = None,
    ) -> None:  # fmt: skip
        check_trainable(model)
        self.x, self.y, self.parts, self.batch, self.optimizer, self.seed = x, y, parts, batch, optimizer, seed
        self.model, self.layout = model, Layout.of(model)
        self.private, self.objective, self.poisoning = private, objective or Plain(), poisoning
        self.source, self.rules, self.probe, self.growth = source, rules, probe, growth
        self.paces: list[dict[str, int]] = []
        """What trainings have made of a growth: see `Pace`."""
        self.personal = Personal(personal, self.layout, x.device)
        self.plain, self.worth = self._chosen(model)
        self.gradients = self.objective.gradients(self.plain)
        self.stackable = getattr(optimizer, "stackable", True)
        self.cohort = min(cohort or self.worth, self.worth) if self.stackable and growth is None else 1
        self.keeps = keeps
        if keeps:
            check_memory(optimizer, self.layout, self.stackable)

    @property
    def judged_apart(self) -> bool:
        """Whether there is no one model that all clients have: parameters or statistics are each one's own."""
        return self.personal.any or isinstance(self.objective, FedRBN)

    @property
    def momentum(self) -> float | None:
        """Of plain SGD that starts afresh each time and takes whole steps; None: what clients do is not so simple."""
        momentum = getattr(self.optimizer, "momentum", None)
        return None if self.rules or self.growth or (self.keeps and momentum) else momentum

    @property
    def goes_on(self) -> bool:
        """Whether a client's next training depends on what this one leaves, whatever corrects drift."""
        learning = any(isinstance(rule, Learning) for rule in self.rules)
        return self.keeps or self.personal.any or learning or self.remembers or self.growth is not None

    @property
    def remembers(self) -> bool:
        """Whether what its steps write down is there for the client's next training."""
        return self.objective.remembers or self.source.remembers

    def _chosen(self, model: nn.Module) -> tuple[Gradients, int]:
        return choose(model, self.layout.size, self.batch, self.x.device, self.private and self.private.clip)

    def plain_at(self, version: int) -> Gradients:
        """The source of gradients of the model as it is at a version."""
        model = at(self.model, version)
        return self.plain if model is self.model else self._chosen(model)[0]

    def gradients_at(self, version: int) -> Gradients:
        """The objective's source, of the same model."""
        plain = self.plain_at(version)
        return self.gradients if plain is self.plain else self.objective.gradients(plain)

    def look_up(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Examples and labels of rows (...,) of the dataset."""
        return self.x[rows], self.y[rows]

    def __call__(self, tasks: Sequence[LocalTask], drift: Drift | None = None) -> list[LocalResult]:
        """Their results, in the same order; `drift` is what they add to their gradients.

        ValueError if a client is to train but holds no example.
        """
        results = {}
        tasks = [self.personal.own(task) for task in tasks]
        for stack in self._stacks(tasks):
            results.update(zip(stack, Stack(self, [tasks[place] for place in stack], drift).trained(), strict=True))
        return [results[place] for place in range(len(tasks))]

    def _stacks(self, tasks: Sequence[LocalTask]) -> Iterator[list[int]]:
        """Places of those that train together: in batches of one size, in one phase, from memories and models alike.

        Longest first, so that the finished are a tail.
        """
        alike = defaultdict(list)
        for place in sorted(range(len(tasks)), key=lambda place: -tasks[place].steps):
            held = len(self.parts.indices[tasks[place].client])
            if not held and tasks[place].steps:
                raise ValueError(f"client {tasks[place].client} has no examples to train on")
            phase = self.objective.phase(tasks[place])
            version = tasks[place].version if isinstance(self.model, Maturing) else None
            alike[min(self.batch, held), phase, version, likeness(tasks[place].kept.optimizer)].append(place)
        for (size, *_), places in alike.items():
            numbers = size * tasks[places[0]].steps * self.y[:1].numel()
            most = min(self.cohort, max(1, VISITS // max(1, numbers)))
            for stack in np.array_split(places, -(-len(places) // most)):
                yield stack.tolist()

    def pace(self, tasks: Sequence[LocalTask]) -> Pace:
        """How what they visit is cut into steps."""
        held = len(self.parts.indices[tasks[0].client])
        source = EachExample(at(self.model, tasks[0].version)) if self.growth else None
        return Pace.of(tasks, min(self.batch, held), held, self.growth, source)

    def visits(self, tasks: Sequence[LocalTask]) -> tuple[Tensor, Tensor]:
        """Rows of the dataset that each client visits, (K, steps b), and their labels; the finished visit nothing."""
        held = [len(self.parts.indices[task.client]) for task in tasks]
        rows = torch.zeros(len(tasks), tasks[0].steps * min(self.batch, held[0]), dtype=torch.int64)
        own = torch.zeros(*rows.shape, *self.y.shape[1:], dtype=self.y.dtype) if self.parts.labels else None
        for k, task in enumerate(tasks):
            visits = batches(self.seed, task, held[k], self.batch).ravel()
            rows[k, : len(visits)] = torch.from_numpy(self.parts.held(task.client, task.ordinal)[visits])
            if own is not None and self.parts.labels:
                own[k, : len(visits)] = torch.from_numpy(self.parts.labels[task.client][visits])
        rows = rows.to(self.x.device)
        return rows, self.y[rows] if own is None else own.to(self.x.device)
