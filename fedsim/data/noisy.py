"""Labels that are wrong, and a few that are known to be right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedsim.data.dataset import Count, Dataset
from fedsim.data.partitions import Iid, Parts, check_clients, classes
from fedsim.rng import stream
from fedsim.units import Probability


@dataclass(frozen=True)
class Noisy:
    """An IID split of which each client keeps `clean` examples apart, whose labels it knows, and learns from the rest.

    Of these a `share` has the label of another class, drawn evenly. Who does not ask for clean examples does without.
    """

    share: Probability
    clean: Count = 20
    cover: ClassVar[bool] = False

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """ScenarioError if a client would have nothing to learn from."""
        labels = classes(dataset.y, "noisy")
        check_clients(dataset, clients, self.clean + 1)
        held = Iid().split(dataset, clients, seed).indices
        orders = [stream(seed, "clean", client).permutation(own) for client, own in enumerate(held)]
        parts = [np.sort(own[self.clean :]) for own in orders]
        seen = [self._flipped(labels[own], dataset.outputs, stream(seed, "noise", client))
                for client, own in enumerate(parts)]  # fmt: skip
        return Parts(parts, seen, clean=[np.sort(own[: self.clean]) for own in orders])

    def _flipped(self, labels: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
        wrong = draw.permutation(len(labels))[: round(self.share * len(labels))]
        flipped = labels.copy()
        flipped[wrong] = (labels[wrong] + draw.integers(1, count, len(wrong))) % count
        return flipped
