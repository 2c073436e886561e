"""Points on a sphere that are so far apart and no farther: the data of the theory of adversarial training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from fedsim.data.dataset import Count, Dataset
from fedsim.data.partitions import Natural, Partition
from fedsim.errors import ScenarioError
from fedsim.rng import stream

TRIES = 10_000


@dataclass(frozen=True)
class Separated:
    """Synthetic: pairs of points on the unit sphere, `gamma` apart, labelled +1 and -1; all others are farther apart.

    So the training set is gamma-separated in the sense of Li, Song and Yang (ICML 2023), and gamma is attained. Labels
    are points of one coordinate, the loss is half the squared error, and the test set is the training set, of which the
    theory speaks. With `mixed`, both points of a pair are the same client's; else the first clients hold the positive
    ones, the last the negative ones.
    """

    seed: int
    clients: Count
    gamma: Annotated[float, Field(gt=0, le=1)]
    dimension: Annotated[int, Field(ge=2)] = 16
    pairs: Count = 5
    """A client."""
    mixed: bool = True
    partition: Partition = Natural()

    def load(self, folders: Sequence[Path] = ()) -> Dataset:
        """Inputs float32 (n, dimension), labels float32 (n, 1), n = 2 clients pairs; ScenarioError without room."""
        pairs = self._pairs(self.clients * self.pairs)
        x = pairs.reshape(-1, self.dimension)
        y = np.tile([1.0, -1.0], len(pairs))
        if not self.mixed:
            order = np.argsort(-y, kind="stable")
            x, y = x[order], y[order]
        owners = np.repeat(np.arange(self.clients), 2 * self.pairs)
        inputs, labels = torch.from_numpy(x).float(), torch.from_numpy(y).float().unsqueeze(1)
        return Dataset(inputs, labels, inputs, labels, 1, owners, tuple(map(str, range(self.clients))))

    def _pairs(self, count: int) -> np.ndarray:
        """Float64 (count, 2, dimension): drawn until they are farther than gamma from all before."""
        found = np.empty((0, 2, self.dimension))
        for attempt in range(TRIES):
            pair = self._pair(stream(self.seed, "separated", attempt))
            apart = np.linalg.norm(found.reshape(-1, 1, self.dimension) - pair, axis=-1)
            if (apart > self.gamma).all():
                found = np.concatenate([found, pair[None]])
            if len(found) == count:
                return found
        raise ScenarioError(f"data.separated: there is no room for {count} pairs {self.gamma:g} apart in "
                            f"{self.dimension} dimensions: take a smaller gamma or more dimensions")  # fmt: skip

    def _pair(self, rng: np.random.Generator) -> np.ndarray:
        """A point of the sphere and another, gamma away, in a random direction."""
        centre, aside = rng.standard_normal((2, self.dimension))
        centre /= np.linalg.norm(centre)
        aside -= aside @ centre * centre
        angle = 2 * np.arcsin(self.gamma / 2)
        return np.stack([centre, np.cos(angle) * centre + np.sin(angle) * aside / np.linalg.norm(aside)])
