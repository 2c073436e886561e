"""Digits whose pictures get worse while clients watch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.data.dataset import Count, Dataset
from fedsim.data.images import Digits
from fedsim.data.partitions import Parts, check_clients
from fedsim.errors import ScenarioError
from fedsim.rng import stream

Order = Literal["shuffled", "sorted"]


@dataclass(frozen=True)
class Passing:
    """A client holds `size` examples at each training, the next ones at the next; after `clean` trainings they drift.

    By one rung a training, and each client is a rung further than the one before it, up to the last. What drifts comes
    `shuffled`, or `sorted` by label.
    """

    rungs: int
    clean: Count
    size: Count
    order: Order
    cover: ClassVar[bool] = False

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """ScenarioError if a client has fewer than it is to hold."""
        count = len(dataset) // (self.rungs + 1)
        check_clients(dataset, clients)
        if count // clients < self.size:
            raise ScenarioError(f"each of {clients} clients has {count // clients} examples, fewer than {self.size}")
        shares = np.array_split(stream(seed, "partition").permutation(count), clients)
        ranked = [share[np.argsort(dataset.y.numpy()[share], kind="stable")] for share in shares]
        redraw = partial(self._held, count, shares, shares if self.order == "shuffled" else ranked)
        return Parts([redraw(client, 0) for client in range(clients)], redraw=redraw)

    def _held(
        self, count: int, clean: Sequence[np.ndarray], drifting: Sequence[np.ndarray], client: int, ordinal: int
    ) -> np.ndarray:
        late = ordinal - self.clean
        rung = 0 if late < 0 else min(late + 1 + client, self.rungs)
        own = (clean if late < 0 else drifting)[client]
        return own[(np.arange(self.size) + ordinal * self.size) % len(own)] + rung * count


@dataclass(frozen=True)
class DriftingDigits:
    """The digits for `clean` trainings; then with ever less contrast and more noise, x (1 - 0.4 s) + 0.35 s U + 0.1 s.

    U is uniform in [0, 1] for each pixel of each example, drawn by the run's seed; the severity s grows to `worst` in
    so many `rungs`, where the test set is from the start.
    """

    seed: int
    """Given by the run."""
    clean: Count
    rungs: Count = 5
    size: Count = 64
    """Examples a training."""
    worst: Annotated[float, Field(ge=0, le=2.5)] = 1.0
    """With 2.5 nothing is left of the picture."""
    order: Order = "shuffled"
    """Of what drifts: `sorted` by label, a training sees one or two classes."""

    @property
    def partition(self) -> Passing:
        """A few at a time."""
        return Passing(self.rungs, self.clean, self.size, self.order)

    def load(self, folders: Sequence[Path] = ()) -> Dataset:
        """All examples on the first rung, which is clean, then on the next."""
        plain = Digits().load()
        x = torch.cat([self._worse(plain.x, self.worst * rung / self.rungs, "train") for rung in range(self.rungs + 1)])
        x_test = self._worse(plain.x_test, self.worst, "test")
        return Dataset(x, plain.y.repeat(self.rungs + 1), x_test, plain.y_test, outputs=10)

    def _worse(self, x: Tensor, severity: float, name: str) -> Tensor:
        noise = torch.from_numpy(stream(self.seed, "drift", name).random(x.shape)).float()
        return x * (1 - 0.4 * severity) + 0.35 * severity * noise + 0.1 * severity
