"""What an exam answers to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from fedsim.data import Dataset


class Exam(Protocol):
    """Looks at a model in a way of its own. It trains nothing, and its randomness is addressed by the run's seed."""

    def refuse(self, model: nn.Module, dataset: Dataset) -> None:
        """ValueError if it cannot look at such a model, or has no use for such data."""
        ...

    def grade(self, model: nn.Module, named: Mapping[str, Tensor], dataset: Dataset) -> dict[str, float]:
        """What is found, by name, of a model with these parameters: name -> tensor. Where it has BatchNorm, its
        statistics are fixed."""
        ...
