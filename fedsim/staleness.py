"""How much an update counts that is s versions old."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field

Positive = Annotated[float, Field(gt=0)]


class Discount(Protocol):
    """A weight in (0, 1] for a staleness of 0, 1, 2, ... versions."""

    def __call__(self, staleness: int) -> float:
        """The weight."""
        ...


@dataclass(frozen=True)
class Constant:
    """Staleness does not matter."""

    def __call__(self, staleness: int) -> float:
        """Always 1."""
        return 1.0


@dataclass(frozen=True)
class Polynomial:
    """(1 + s) ** -power (Xie et al., 2019, section 5.2; FedBuff's default has power 1/2).

    >>> Polynomial()(0), Polynomial()(3)
    (1.0, 0.5)
    """

    power: Annotated[float, Field(ge=0)] = 0.5

    def __call__(self, staleness: int) -> float:
        """The weight."""
        return (1 + staleness) ** -self.power


@dataclass(frozen=True)
class Hinge:
    """1 up to a staleness of `grace`, then 1 / (slope * (s - grace) + 1) (Xie et al., 2019, section 5.2).

    >>> Hinge(slope=10, grace=4)(4), Hinge(slope=10, grace=4)(5)
    (1.0, 0.09090909090909091)
    """

    slope: Positive = 10.0
    grace: Annotated[int, Field(ge=0)] = 4

    def __call__(self, staleness: int) -> float:
        """The weight."""
        return 1.0 if staleness <= self.grace else 1 / (self.slope * (staleness - self.grace) + 1)


DISCOUNTS = {"constant": Constant, "polynomial": Polynomial, "hinge": Hinge}
