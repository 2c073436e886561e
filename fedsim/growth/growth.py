"""What a rule for the size of batches answers to, and what it looks at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import ceil, inf
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from fedsim.gradients.closed_form import at_most

Tolerance = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Spread:
    """How the gradients g_i of a batch's examples lie about their mean g, over all parameters at once."""

    square: float
    """|g|^2."""
    total: float
    """The sum over parameters of Var_i(g_i); variances are unbiased."""
    along: float
    """Var_i(<g_i, g>)."""

    @classmethod
    def of(cls, each: Tensor) -> Spread:
        """Of at least two gradients (B, P). By one thread, so that rounding does not depend on how many there are."""
        with at_most(1):
            mean = each.mean(0)
            return cls(float(mean.double().square().sum()), float(each.var(0).double().sum()),
                       float((each @ mean).double().var()))  # fmt: skip

    @property
    def across(self) -> float:
        """The same sum of what is left of g_i without its part along g."""
        return max(0.0, self.total - self.along / self.square) if self.square else self.total


def needed(variance: float, bound: float) -> float:
    """Of how many the mean has a variance within the bound.

    >>> needed(6.0, 2.0), needed(1.0, 0.0), needed(0.0, 0.0)
    (3.0, inf, 0.0)
    """
    if bound > 0:
        return variance / bound
    return inf if variance > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Growth(ABC):
    """A rule by which batches grow, and never shrink. A client's next training begins with the size it has reached.

    AdAdaGrad: Lau, Liu and Kolar, arXiv 2402.11215; the test is made after every step, as in its public code, until
    batches are as large as they may be. Time is priced as if it were made after every step.
    """

    most: Annotated[int, Field(ge=2)] = 50_000
    """No batch is larger, nor than what a client holds."""
    effort: ClassVar[float] = 1.0
    """What a look at a step costs, in plain gradients: those of its batch once more, one example at a time."""

    @abstractmethod
    def wanted(self, spread: Spread) -> float:
        """How many examples the test asks for; not a whole number."""

    def next(self, size: int, most: int, each: Tensor) -> int:
        """The size after a batch whose examples have these gradients (B, P), where `most` are possible.

        It stays where there are fewer than two, which have no variance, or numbers that are not finite.
        """
        if len(each) < 2 or not (wanted := self.wanted(Spread.of(each))) > size:
            return size
        return max(size, ceil(min(wanted, most)))
