"""What clients that attack learn from in place of their examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Annotated

from pydantic import Field
from torch import Tensor

Class = Annotated[int, Field(ge=0)]


class Poison(ABC):
    """Changes examples, or the classes that they are said to be of."""

    pictures = False
    """Whether examples have to be real numbers."""

    @abstractmethod
    def spoiled(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Of a batch (B, *shape) with classes (B,)."""

    @abstractmethod
    def aim(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Of test examples those that are to be mistaken, as they are shown, and what for: success is how many are."""


@dataclass(frozen=True)
class LabelFlip(Poison):
    """Class k is said to be the k-th last; or, where they are named, class `source` to be class `target`.

    So in Fang et al., Local Model Poisoning Attacks (USENIX Security 2020), and in Tolpegin et al. (ESORICS 2020).
    """

    classes: int
    source: Class | None = None
    target: Class | None = None

    def __post_init__(self) -> None:
        if (self.source is None) != (self.target is None):
            raise ValueError("needs both source and target, or neither")
        _refuse_foreign(self.classes, source=self.source, target=self.target)

    def flipped(self, y: Tensor) -> Tensor:
        """Classes (B,)."""
        if self.source is None or self.target is None:
            return self.classes - 1 - y
        return y.masked_fill(y == self.source, self.target)

    def spoiled(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Poison`."""
        return x, self.flipped(y)

    def aim(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Poison`."""
        meant = self.flipped(y) != y
        return x[meant], self.flipped(y)[meant]


@dataclass(frozen=True)
class Backdoor(Poison):
    """In a `part` of every batch a trigger is drawn into the example, whose class is said to be `target`.

    Gu et al., BadNets (2017); in federated learning Bagdasaryan et al., How to Backdoor Federated Learning (AISTATS
    2020), whose model replacement it becomes with the lie `scaled`. The trigger: the last `size` places along both axes
    of a picture, or of a list of features, are `value`, in all channels.
    """

    classes: int
    target: Class = 0
    part: Annotated[float, Field(gt=0, le=1)] = 0.5
    size: Annotated[int, Field(ge=1)] = 3
    value: float = 1.0
    pictures = True

    def __post_init__(self) -> None:
        _refuse_foreign(self.classes, target=self.target)

    def triggered(self, x: Tensor) -> Tensor:
        """Examples (B, *shape) with the trigger."""
        axes = min(2, x.dim() - 1)
        marked = x.clone()
        marked[(..., *[slice(-self.size, None)] * axes)] = self.value
        return marked

    def spoiled(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Poison`; batches are in random order, so their first examples are any."""
        count = ceil(self.part * len(x))
        x, y = x.clone(), y.clone()
        x[:count], y[:count] = self.triggered(x[:count]), self.target
        return x, y

    def aim(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `Poison`."""
        others = y != self.target
        return self.triggered(x[others]), y[others] * 0 + self.target


def _refuse_foreign(classes: int, **named: int | None) -> None:
    for name, number in named.items():
        if number is not None and number >= classes:
            raise ValueError(f"{name} is class {number}, but classes are 0 to {classes - 1}")


POISONS: dict[str, Callable[..., Poison]] = {"label_flip": LabelFlip, "backdoor": Backdoor}
