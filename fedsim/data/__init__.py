"""Datasets as tensors, and partitions that share them out among clients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from fedsim.data.dataset import Dataset
from fedsim.data.drifting import DriftingDigits
from fedsim.data.folders import data_folders
from fedsim.data.generative import NoisyDigits, SeededDigits
from fedsim.data.grid_world import GridWorld
from fedsim.data.hub import FlowerPartitioner
from fedsim.data.images import Cifar10, Digits, FashionMnist, Mnist
from fedsim.data.in_turn import PermutedDigits, SplitDigits
from fedsim.data.low_rank import LowRank
from fedsim.data.noisy import Noisy
from fedsim.data.partitions import Dirichlet, Iid, LabelSwap, Natural, Partition, Parts, Shards
from fedsim.data.points import Points
from fedsim.data.replacement import Resampled, WithReplacement
from fedsim.data.separated import Separated
from fedsim.data.tabular import HeartDisease
from fedsim.data.text import Shakespeare


class Source(Protocol):
    """Where a dataset comes from, and how it is shared out.

    A constructor that takes an argument `seed` is given the run's: for data that are drawn.
    """

    @property
    def partition(self) -> Partition:
        """How the training examples are shared out."""
        ...

    def load(self, folders: Sequence[Path]) -> Dataset:
        """Read it from the first of the folders that has it; raises DataMissing if none has."""
        ...


DATA: dict[str, type[Source]] = {
    "digits": Digits,
    "mnist": Mnist,
    "fashion_mnist": FashionMnist,
    "cifar10": Cifar10,
    "shakespeare": Shakespeare,
    "heart_disease": HeartDisease,
    "points": Points,
    "separated": Separated,
    "low_rank": LowRank,
    "permuted_digits": PermutedDigits,
    "grid_world": GridWorld,
    "noisy_digits": NoisyDigits,
    "seeded_digits": SeededDigits,
    "split_digits": SplitDigits,
    "drifting_digits": DriftingDigits,
}

PARTITIONS: dict[str, type[Partition]] = {
    "iid": Iid,
    "dirichlet": Dirichlet,
    "shards": Shards,
    "natural": Natural,
    "label_swap": LabelSwap,
    "with_replacement": WithReplacement,
    "resampled": Resampled,
    "noisy": Noisy,
    "flower": FlowerPartitioner,
}

__all__ = [
    "DATA",
    "PARTITIONS",
    "Cifar10",
    "Dataset",
    "Digits",
    "Dirichlet",
    "DriftingDigits",
    "FashionMnist",
    "FlowerPartitioner",
    "GridWorld",
    "HeartDisease",
    "Iid",
    "LabelSwap",
    "LowRank",
    "Mnist",
    "Natural",
    "Noisy",
    "NoisyDigits",
    "Partition",
    "Parts",
    "PermutedDigits",
    "Points",
    "Resampled",
    "SeededDigits",
    "Separated",
    "Shakespeare",
    "Shards",
    "Source",
    "SplitDigits",
    "WithReplacement",
    "data_folders",
]
