"""Tasks one after another: what is learned first may be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fedsim.data.dataset import Count, Dataset
from fedsim.data.images import Digits
from fedsim.data.partitions import Parts, check_clients
from fedsim.errors import ScenarioError
from fedsim.rng import stream


@dataclass(frozen=True)
class InTurn:
    """Of a set whose halves are two tasks, the first half in a client's first `trainings`, the second from then on.

    Both are dealt out at random. Clients 0, 2, ... are tested on the first task, clients 1, 3, ... on the second, so
    that the mean is that of both, and `evaluate.clients` shows each.
    """

    trainings: Count
    cover: ClassVar[bool] = False

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """ScenarioError if the clients are not of an even number."""
        half, tests = len(dataset) // 2, len(dataset.y_test) // 2
        check_clients(dataset, 2 * clients)
        if clients % 2:
            raise ScenarioError(f"two tasks in turn need an even number of clients, not {clients}")
        first = np.array_split(stream(seed, "partition").permutation(half), clients)
        shown = Parts([np.arange(tests) + tests * (client % 2) for client in range(clients)])
        return Parts(first, test=shown, redraw=partial(self._held, first, half))

    def _held(self, first: Sequence[np.ndarray], half: int, client: int, ordinal: int) -> np.ndarray:
        return first[client] + (half if ordinal >= self.trainings else 0)


@dataclass(frozen=True)
class PermutedDigits:
    """The digits as they are, and then with their 64 pixels in another order: two tasks of one kind.

    After permuted MNIST (Goodfellow et al., 2014). The order is drawn by the run's seed.
    """

    seed: int
    """Given by the run."""
    trainings: Count
    """So many of each client's are the first task."""

    @property
    def partition(self) -> InTurn:
        """The tasks in turn."""
        return InTurn(self.trainings)

    def load(self, folders: Sequence[Path] = ()) -> Dataset:
        """The first task's examples, then the second's."""
        plain = Digits().load()
        order = torch.from_numpy(stream(self.seed, "permuted pixels").permutation(64))

        def both(x: Tensor) -> Tensor:
            return torch.cat([x, x.flatten(1)[:, order].view(x.shape)])

        return Dataset(both(plain.x), plain.y.repeat(2), both(plain.x_test), plain.y_test.repeat(2), outputs=10)
