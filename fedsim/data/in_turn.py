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
    """Of T tasks, the first in a client's first `trainings`, the second in as many more, and the last from then on.

    Each is dealt out at random, as many examples of it as the smallest task has. Client i is tested on task i mod T, so
    that the mean is that of all, and `evaluate.clients` shows each.
    """

    trainings: Count
    cover: ClassVar[bool] = False

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """ScenarioError if not as many clients are tested on each task."""
        assert dataset.tasks is not None
        members = [np.flatnonzero(dataset.tasks == task) for task in np.unique(dataset.tasks)]
        count, least = len(members), min(map(len, members))
        check_clients(dataset, count * clients)
        if clients % count:
            raise ScenarioError(f"{count} tasks in turn need a multiple of {count} clients, not {clients}")
        shares = np.array_split(stream(seed, "partition").permutation(least), clients)
        shown = Parts([np.flatnonzero(dataset.test_tasks == client % count) for client in range(clients)])
        redraw = partial(self._held, members, shares)
        return Parts([redraw(client, 0) for client in range(clients)], test=shown, redraw=redraw)

    def _held(
        self, members: Sequence[np.ndarray], shares: Sequence[np.ndarray], client: int, ordinal: int
    ) -> np.ndarray:
        return members[min(ordinal // self.trainings, len(members) - 1)][shares[client]]


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

        tasks, test_tasks = (np.arange(2).repeat(len(y)) for y in (plain.y, plain.y_test))
        return Dataset(both(plain.x), plain.y.repeat(2), both(plain.x_test), plain.y_test.repeat(2), outputs=10,
                       tasks=tasks, test_tasks=test_tasks)  # fmt: skip


@dataclass(frozen=True)
class SplitDigits:
    """The digits in five tasks of two classes each, 0 and 1 first; one model tells all ten apart.

    After split MNIST (Zenke et al., 2017), class-incremental: nothing says which task an example is of.
    """

    trainings: Count
    """So many of each client's are of each task, but for the last, which stays."""

    @property
    def partition(self) -> InTurn:
        """The tasks in turn."""
        return InTurn(self.trainings)

    def load(self, folders: Sequence[Path] = ()) -> Dataset:
        """All digits, with their tasks."""
        plain = Digits().load()
        tasks, test_tasks = plain.y.numpy() // 2, plain.y_test.numpy() // 2
        return Dataset(plain.x, plain.y, plain.x_test, plain.y_test, outputs=10, tasks=tasks, test_tasks=test_tasks)
