"""What a client that lies sends in place of its change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, ClassVar, NamedTuple

from fedsim_kernels.distances import distances
from pydantic import Field
from torch import Generator, Tensor

from fedsim.wire.codec import normal

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Known(NamedTuple):
    """What liars know of a step, float64."""

    honest: Tensor
    """All honest changes, (m, P)."""
    liars: Tensor
    """Their own, as they would be if they were honest, (l, P)."""


class Lie(ABC):
    """Of one liar among several. The worst of them know all honest changes of a step, and conspire."""

    alone: ClassVar[bool] = True
    """Whether it can be told without any honest change."""

    @abstractmethod
    def told(self, own: Tensor, known: Known, version: int, draw: Generator) -> Tensor:
        """In place of its `own` change (P,), which started from this version."""


@dataclass(frozen=True)
class SignFlip(Lie):
    """The opposite of its change, times `scale`."""

    scale: NotNegative = 1.0

    def told(self, own: Tensor, known: Known, version: int, draw: Generator) -> Tensor:
        """See `Lie`."""
        return -self.scale * own


@dataclass(frozen=True)
class Scaled(Lie):
    """Its change, times `factor`: with as many as there are clients, its model replaces all."""

    factor: Finite = 10.0

    def told(self, own: Tensor, known: Known, version: int, draw: Generator) -> Tensor:
        """See `Lie`."""
        return self.factor * own


@dataclass(frozen=True)
class Gaussian(Lie):
    """Noise in place of its change."""

    sigma: NotNegative

    def told(self, own: Tensor, known: Known, version: int, draw: Generator) -> Tensor:
        """See `Lie`."""
        return self.sigma * normal(own, draw)


@dataclass(frozen=True)
class FreeRider(Lie):
    """Nothing, as if it had trained: the model comes back as it was, but for noise that fades, sigma t^-decay.

    Fraboni, Vidal and Lorenzi, Free-rider Attacks on Model Aggregation (AISTATS 2021): plain, or disguised by noise.
    Not to train takes no time: see the timing `pace`.
    """

    sigma: NotNegative = 0.0
    decay: NotNegative = 1.0

    def told(self, own: Tensor, known: Known, version: int, draw: Generator) -> Tensor:
        """See `Lie`."""
        return self.sigma * (version + 1) ** -self.decay * normal(own, draw)


@dataclass(frozen=True)
class Sybils(Lie):
    """The mean of what all liars have learned, from each of them: they are one adversary under many names.

    With `jitter`, noise of so many times its length sets them apart; Fung et al. (RAID 2020) try such sybils too.
    """

    jitter: NotNegative = 0.0

    def told(self, own: Tensor, known: Known, version: int, draw: Generator) -> Tensor:
        """See `Lie`."""
        common = known.liars.mean(dim=0)
        noise = normal(own, draw)
        return common + self.jitter * common.norm() * noise / noise.norm().clamp_min(1e-300)


@dataclass(frozen=True)
class InnerProduct(Lie):
    """The opposite of the honest mean, times `scale`: Xie, Koyejo and Gupta, Fall of Empires (UAI 2019)."""

    alone: ClassVar[bool] = False
    scale: NotNegative = 0.5

    def told(self, own: Tensor, known: Known, version: int, draw: Generator) -> Tensor:
        """See `Lie`."""
        return -self.scale * known.honest.mean(dim=0)


@dataclass(frozen=True)
class ALittleIsEnough(Lie):
    """The honest mean less z standard deviations of every coordinate: Baruch, Baruch and Goldberg (NeurIPS 2019).

    With z left open it is the largest at which, were changes normal, enough honest ones would be farther away to make a
    majority with the liars: the normal quantile of (m - s) / m, s = floor(n / 2 + 1) - liars, n = m + liars.
    """

    alone: ClassVar[bool] = False
    z: NotNegative | None = None

    def told(self, own: Tensor, known: Known, version: int, draw: Generator) -> Tensor:
        """See `Lie`."""
        z = self.deviations(len(known.honest), len(known.liars)) if self.z is None else self.z
        return known.honest.mean(dim=0) - z * known.honest.std(dim=0, correction=0)

    def deviations(self, honest: int, liars: int) -> float:
        """The z that is chosen; 0 where the quantile is below a half or there is none."""
        supporters = (honest + liars) // 2 + 1 - liars
        share = (honest - supporters) / honest
        return NormalDist().inv_cdf(share) if 0.5 < share < 1 else 0.0


@dataclass(frozen=True)
class MinMax(Lie):
    """As far from the honest mean, against their deviation, as no honest change is farther from another.

    Shejwalkar and Houmansadr, Manipulating the Byzantine (NDSS 2021).
    """

    alone: ClassVar[bool] = False

    def told(self, own: Tensor, known: Known, version: int, draw: Generator) -> Tensor:
        """See `Lie`."""
        honest, most = known.honest, distances(known.honest).max()
        return farthest(honest, lambda lie: bool((honest - lie).square().sum(1).max() <= most))


@dataclass(frozen=True)
class MinSum(Lie):
    """The same, but that its squared distances sum to no more than any honest one's; as there."""

    alone: ClassVar[bool] = False

    def told(self, own: Tensor, known: Known, version: int, draw: Generator) -> Tensor:
        """See `Lie`."""
        honest, most = known.honest, distances(known.honest).sum(dim=1).max()
        return farthest(honest, lambda lie: bool((honest - lie).square().sum() <= most))


def farthest(honest: Tensor, hidden: Callable[[Tensor], bool]) -> Tensor:
    """The mean less the largest multiple of the standard deviations that stays hidden, by halving."""
    mean, deviation = honest.mean(dim=0), honest.std(dim=0, correction=0)
    low, high = 0.0, 1.0
    while hidden(mean - high * deviation) and high < 2**20:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if hidden(mean - middle * deviation) else (low, middle)
    return mean - low * deviation


LIES: dict[str, Callable[..., Lie]] = {
    "sign_flip": SignFlip,
    "scaled": Scaled,
    "gaussian": Gaussian,
    "free_rider": FreeRider,
    "sybils": Sybils,
    "inner_product": InnerProduct,
    "alie": ALittleIsEnough,
    "min_max": MinMax,
    "min_sum": MinSum,
}
