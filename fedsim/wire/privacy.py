"""Clipping and noise: what one client can change, and how much of that is drowned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, prod, sqrt
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from fedsim.units import Probability
from fedsim.vector import Layout
from fedsim.wire.codec import Draw, Message, generator, normal

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Within(Protocol):
    """Whatever knows whether its update had to be clipped."""

    @property
    def within(self) -> bool | None:
        """Whether it was short enough."""
        ...


class Clip(ABC):
    """How updates are shortened. `norm` bounds the 2-norm of a whole update, at the start."""

    norm: float
    message: bool = False
    """Whether it is not updates but messages that are clipped, and noised."""

    @abstractmethod
    def clipped(self, vector: Tensor, bound: float, layout: Layout) -> Tensor:
        """A vector (P,) no longer than `bound`."""

    def next(self, bound: float, within: float) -> float:
        """The next bound, where such a part of the updates was short enough."""
        return bound

    @property
    def count_noise(self) -> float:
        """Standard deviation of the noise on the number of those; 0: nobody counts."""
        return 0.0


@dataclass(frozen=True)
class Flat(Clip):
    """To a 2-norm of at most `norm`: of the update before it is encoded, or of the `message`, if that is linear."""

    shorthand: ClassVar[str] = "norm"

    norm: Positive
    message: bool = False

    def clipped(self, vector: Tensor, bound: float, layout: Layout) -> Tensor:
        """See `Clip`."""
        return vector * (bound / vector.norm().clamp_min(1e-30)).clamp_max(1.0)


@dataclass(frozen=True)
class PerLayer(Clip):
    """Every one of L parameters to norm / sqrt(L): McMahan et al., Learning Differentially Private Recurrent Language
    Models (ICLR 2018).
    """

    norm: Positive

    def clipped(self, vector: Tensor, bound: float, layout: Layout) -> Tensor:
        """See `Clip`."""
        each = Flat(bound / sqrt(len(layout.shapes)))
        parts = vector.split([prod(shape) for shape in layout.shapes])
        return torch.cat([each.clipped(part, each.norm, layout) for part in parts])


@dataclass(frozen=True)
class Adaptive(Clip):
    """To a norm that follows a `quantile` of the updates' norms: Andrew et al., NeurIPS 2021.

    C <- C exp(-rate (b - quantile)), where b is the part of a step's updates that were short enough, told with noise of
    standard deviation `count` (their sigma_b; they take a twentieth of the expected number of updates).
    """

    norm: Positive = 0.1
    quantile: Probability = 0.5
    rate: Positive = 0.2
    count: NotNegative = 0.0

    @property
    def count_noise(self) -> float:
        """Of the number of those who were short enough."""
        return self.count

    def clipped(self, vector: Tensor, bound: float, layout: Layout) -> Tensor:
        """See `Clip`."""
        return Flat(bound).clipped(vector, bound, layout)

    def next(self, bound: float, within: float) -> float:
        """See `Clip`."""
        return bound * exp(-self.rate * (within - self.quantile))


@dataclass(frozen=True)
class Noise:
    """Gaussian, so that the sum of a step's updates has `multiplier` times the clip norm as standard deviation.

    Added by a trusted `server`; or by `clients`, each its share, which protects only where the server sees nothing but
    the sum (secure aggregation); or by `each` client the whole of it, which protects its message from everybody.
    """

    multiplier: NotNegative
    by: Literal["server", "clients", "each"] = "server"


@dataclass
class Privacy:
    """What a run does to protect its clients; without `clip` nothing.

    `expected` is how many updates a step counts: it divides their sum by that, whoever is heard.
    """

    seed: int
    layout: Layout
    clip: Clip | None = None
    noise: Noise | None = None
    expected: float = 1.0
    bounds: dict[int, float] = field(default_factory=dict, init=False)
    """The clip norm for each server version that it was changed at."""
    bound: float = field(default=0.0, init=False)
    """At present."""
    changing: ClassVar[tuple[str, ...]] = ("bounds", "bound")

    def __post_init__(self) -> None:
        if self.clip is not None:
            self.bound = self.bounds[0] = self.clip.norm

    def protected(self, vector: Tensor, draw: Draw) -> tuple[Tensor, bool | None]:
        """An update (P,) clipped and noised, unless its message is to be; and whether it was short enough as it was."""
        if self.clip is None or self.clip.message:
            return vector, None
        bound = self.bound_at(draw.version)
        clipped = self.clip.clipped(vector, bound, self.layout)
        return self._noised(clipped, bound, draw), bool(vector.norm() <= bound)

    def blurred(self, message: Message, draw: Draw) -> Message:
        """A linear codec's message, clipped and noised if that is what the clip is for."""
        if self.clip is None or not self.clip.message:
            return message
        [content] = message
        bound = self.bound_at(draw.version)
        return (self._noised(self.clip.clipped(content, bound, self.layout), bound, draw),)

    def read(self, arrived: Tensor, draw: Draw) -> Tensor:
        """What a server that adds the noise takes of a message that it has read: no more than the clip norm.

        A codec may have made the update longer than it was clipped to, as unbiased sketches do.
        """
        if self.clip is None or self.noise is None or self.noise.by != "server":
            return arrived
        return self.clip.clipped(arrived, self.bound_at(draw.version), self.layout)

    def bound_at(self, version: int) -> float:
        """The clip norm for those who start from a version."""
        return self.bounds[max(known for known in self.bounds if known <= version)]

    def _noised(self, vector: Tensor, bound: float, draw: Draw) -> Tensor:
        if self.noise is None or self.noise.by == "server":
            return vector
        share = 1.0 if self.noise.by == "each" else 1 / sqrt(self.expected)
        noise = normal(vector, draw.own("noise"))
        return vector + share * self.deviation(bound) * noise

    def deviation(self, bound: float) -> float:
        """Of the noise on a sum of updates: more than multiplier times bound where counting needs its part too.

        (z^-2 - (2 count)^-2)^(-1/2) for an overall multiplier z: Andrew et al., NeurIPS 2021, theorem 1.
        """
        assert self.noise is not None
        z, count = self.noise.multiplier, self.clip.count_noise if self.clip else 0.0
        return bound * (z if not count or not z else (z**-2 - (2 * count) ** -2) ** -0.5)

    def step(self, direction: Tensor, updates: Sequence[Within], version: int) -> Tensor:
        """A server's step from this version: the noise on its direction, if that is the server's; the next bound."""
        if self.noise is not None and self.noise.by == "server":
            noise = normal(direction, generator(self.seed, "wire", "server noise", version))
            direction = direction + self.deviation(self.bound) / self.expected * noise
        if self.clip is not None:
            self._adapt([update.within for update in updates if update.within is not None], version)
        return direction

    def _adapt(self, within: Sequence[bool], version: int) -> None:
        assert self.clip is not None
        told = torch.randn((), generator=generator(self.seed, "wire", "count noise", version))
        part = (sum(within) + self.clip.count_noise * float(told)) / self.expected
        bound = self.clip.next(self.bound, part)
        if bound != self.bound:
            self.bound = self.bounds[version + 1] = bound
