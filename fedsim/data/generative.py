"""Digits for learning to make digits: what is drawn beside each comes with it, another draw for each training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from fedsim.data.dataset import Count, Dataset
from fedsim.data.images import Digits
from fedsim.data.partitions import Iid, Partition, Parts
from fedsim.units import Probability
from fedsim.wire.codec import generator

PIXELS, CLASSES = 64, 10
IID = Iid()


@dataclass(frozen=True)
class Redrawn:
    """Digits shared out by an inner partition; each stands in the set once for each of so many `draws`, which follow
    one another in a client's trainings."""

    inner: Partition
    draws: Count
    cover: ClassVar[bool] = False

    def split(self, dataset: Dataset, clients: int, seed: int) -> Parts:
        """Of the digits, as the inner partition has it."""
        plain = Digits().load()
        parts = self.inner.split(plain, clients, seed)
        return replace(parts, redraw=partial(self._held, parts.indices, len(plain)))

    def _held(self, parts: Sequence[np.ndarray], digits: int, client: int, ordinal: int) -> np.ndarray:
        return parts[client] + digits * (ordinal % self.draws)


class Generative(ABC):
    """What makes examples and labels of digits, with pixels in [-1, 1]; `seed` is the run's."""

    def __init__(self, seed: int, partition: Partition = IID, draws: Count = 20) -> None:
        self.seed, self.draws, self.partition = seed, draws, Redrawn(partition, draws)

    @abstractmethod
    def made(self, pixels: Tensor, classes: Tensor, draw: Generator) -> tuple[Tensor, Tensor]:
        """Examples and labels, of pixels (n, 64) and classes (n,)."""

    def load(self, folders: Sequence[Path] = ()) -> Dataset:
        """The training digits as often as there are draws, and the test digits once."""
        plain = Digits().load()
        pixels, tests = (2 * part.flatten(1) - 1 for part in (plain.x, plain.x_test))
        many = [self.made(pixels, plain.y, generator(self.seed, "drawn", turn)) for turn in range(self.draws)]
        x, y = (torch.cat(parts) for parts in zip(*many, strict=True))
        x_test, y_test = self.made(tests, plain.y_test, generator(self.seed, "drawn", "test"))
        return Dataset(x, y, x_test, y_test, outputs=y.shape[1])


class NoisyDigits(Generative):
    """Digits on their way to noise, x_t = (1 - t) x + t noise; the label is the digit x. For denoisers.

    An example is x_t, then t, uniform in [0, 1], then the digit's class as one of ten numbers that is 1; for a share
    `unlabelled` of the examples none is, so that a model learns to do without (classifier-free guidance).
    """

    def __init__(self, seed: int, partition: Partition = IID, draws: Count = 20, unlabelled: Probability = 0.1) -> None:
        super().__init__(seed, partition, draws)
        self.unlabelled = unlabelled

    def made(self, pixels: Tensor, classes: Tensor, draw: Generator) -> tuple[Tensor, Tensor]:
        """See `Generative`."""
        level, noise = torch.rand(len(pixels), 1, generator=draw), torch.randn(pixels.shape, generator=draw)
        said = torch.rand(len(pixels), 1, generator=draw) >= self.unlabelled
        codes = functional.one_hot(classes, CLASSES).float() * said
        return torch.cat(((1 - level) * pixels + level * noise, level, codes), 1), pixels


class SeededDigits(Generative):
    """Digits beside normal numbers that a generator may make another one of. For games of generator and discriminator.

    Labels are what least squares ask a discriminator to say of both: 1 and 0.
    """

    def __init__(self, seed: int, partition: Partition = IID, draws: Count = 20, latent: Count = 8) -> None:
        super().__init__(seed, partition, draws)
        self.latent = latent

    def made(self, pixels: Tensor, classes: Tensor, draw: Generator) -> tuple[Tensor, Tensor]:
        """See `Generative`."""
        seeds = torch.randn(len(pixels), self.latent, generator=draw)
        return torch.cat((pixels, seeds), 1), torch.tensor([1.0, 0.0]).repeat(len(pixels), 1)
