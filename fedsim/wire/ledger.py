"""The privacy ledger: which epsilon clipped and noised updates have, or why there is none.

Every epsilon comes from the library dp_accounting, for the sampling of clients that really takes place. It is that of
the released models: against whoever also learns who took part in a round, sampling amplifies nothing.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedsim.errors import ExtraMissing

if TYPE_CHECKING:
    from types import ModuleType

    from dp_accounting import DpEvent

Accountant = Literal["rdp", "pld"]

ADJACENCY = {
    "everybody": "add or remove one client's updates; who else counts stays the same (zero-out)",
    "poisson": "add or remove one client",
    "fixed": "replace one client by another",
}
ASYNCHRONOUS = (
    "no epsilon for asynchronous or buffered aggregation: speeds, and no known sampling, decide who is in a step, and "
    "a client may be in one more than once"
)
UNBOUNDED = (
    "no epsilon for unbounded weights: the clip norm bounds what a client adds to a sum only where each update counts "
    "with at most 1/m of a fixed denominator"
)
SELECTED = "no epsilon for value-dependent selection: it reads the clients' private losses, which get no noise"
NO_PLD = "no epsilon from pld for cohorts of fixed size: dp_accounting cannot compute it; take the accountant rdp"


class Unaccountable(ValueError):
    """There is no valid epsilon for this, and why."""


@dataclass(frozen=True)
class Sampling:
    """Who takes part in a round; a ValueError for numbers that do not fit the kind.

    Everybody; or each client independently with probability `rate`; or exactly `cohort` of `population` clients,
    uniformly without replacement.
    """

    kind: Literal["everybody", "poisson", "fixed"]
    rate: float | None = None
    cohort: int | None = None
    population: int | None = None

    def __post_init__(self) -> None:
        match self.kind, self.rate, self.cohort, self.population:
            case "everybody", None, None, None:
                return
            case "poisson", float() | int() as rate, None, None if 0 < rate <= 1:
                return
            case "fixed", None, int() as cohort, int() as population if 1 <= cohort <= population:
                return
        raise ValueError(f"{self}: poisson needs a rate in (0, 1], fixed 1 <= cohort <= population, and nothing more")


@dataclass(frozen=True)
class Ledger:
    """The privacy that is spent, where every round releases one sum of clipped updates with Gaussian noise.

    A round in which nobody takes part releases its noise too.

    Args:
        sampling: who takes part.
        multiplier: standard deviation of the noise on the sum, in clip norms.
        delta: at which epsilon is given, strictly between 0 and 1.
        accountant: Renyi differential privacy, or privacy loss distributions: tighter, but slow where epsilon is large.

    Raises:
        ValueError: a number out of range.
        Unaccountable: privacy loss distributions for cohorts of fixed size.
    """

    sampling: Sampling
    multiplier: float
    delta: float
    accountant: Accountant = "rdp"

    def __post_init__(self) -> None:
        if not 0 <= self.multiplier < float("inf") or not 0 < self.delta < 1:
            raise ValueError(f"a multiplier of {self.multiplier} is below 0 or delta, {self.delta}, not in (0, 1)")
        if self.accountant not in ("rdp", "pld"):
            raise ValueError(f"the accountant is rdp or pld, not {self.accountant}")
        if self.sampling.kind == "fixed" and self.accountant == "pld":
            raise Unaccountable(NO_PLD)

    @property
    def adjacency(self) -> str:
        """Between which two runs epsilon holds, in words."""
        return ADJACENCY[self.sampling.kind]

    def event(self, rounds: int) -> DpEvent:
        """What so many rounds release, for dp_accounting.

        A replaced client moves the sum by up to two clip norms. The bound for fixed cohorts, by Wang, Balle and
        Kasiviswanathan (AISTATS 2019), measures noise in that sensitivity, so there the multiplier is halved.
        """
        library, how = dp_accounting(), self.sampling
        once = library.GaussianDpEvent(self.multiplier / (2 if how.kind == "fixed" else 1))
        if how.kind == "poisson":
            once = library.PoissonSampledDpEvent(how.rate, once)
        elif how.kind == "fixed":
            once = library.SampledWithoutReplacementDpEvent(how.population, how.cohort, once)
        return library.SelfComposedDpEvent(once, rounds)

    def epsilon(self, rounds: int) -> float:
        """After so many rounds: 0 after none, infinite without noise; a ValueError for fewer than 0."""
        if rounds < 0:
            raise ValueError(f"there are no {rounds} rounds")
        if rounds == 0 or self.multiplier == 0:
            return float("inf") if rounds else 0.0
        library = dp_accounting()
        kind = library.pld.PLDAccountant if self.accountant == "pld" else library.rdp.RdpAccountant
        relations = library.NeighboringRelation
        relation = relations.REPLACE_ONE if self.sampling.kind == "fixed" else relations.ADD_OR_REMOVE_ONE
        return float(kind(neighboring_relation=relation).compose(self.event(rounds)).get_epsilon(self.delta))

    def rounds_within(self, budget: float, most: int) -> int:
        """The largest number of rounds, up to `most`, whose epsilon is within `budget`; a ValueError if it is < 0."""
        if not budget >= 0:
            raise ValueError(f"a budget of {budget} is not at least 0")
        enough = 1
        while enough < most and self.epsilon(enough) <= budget:  # far beyond the budget pld would take minutes
            enough *= 2
        return bisect_right(range(1, min(enough, most) + 1), budget, key=self.epsilon)


@dataclass(frozen=True)
class Facts:
    """How a run works, as far as privacy depends on it."""

    clients: int
    cohort: int | None  # how many are selected for a round; none: all that take part
    synchronous: bool  # a round ends before the next begins, and a client counts in it at most once
    participation_rates: tuple[float, ...]  # each client's probability of taking part in a round
    independent_rounds: bool  # participation is drawn anew for each round and client; a Markov chain's is not
    always_available: bool
    fails: bool  # clients may drop out of a round
    over_selected: bool  # more are asked than count
    deadline: bool  # those that come too late do not count
    uniform_selection: bool  # the cohort is drawn uniformly, anew for each round, whatever the clients' values
    bounded_weights: bool  # each update counts with at most 1/m of a fixed denominator

    def __post_init__(self) -> None:
        if not len(self.participation_rates) == self.clients > 0:
            raise ValueError(f"{len(self.participation_rates)} participation rates for {self.clients} clients")

    @property
    def sampled(self) -> bool:
        """Whether who counts is drawn, anew for each round, and depends on no device."""
        by_device = not self.always_available or self.fails or self.over_selected or self.deadline
        return self.independent_rounds and not by_device


def sampling_of(facts: Facts) -> Sampling:
    """The sampling that epsilon may rely on; Unaccountable where there is none.

    Everybody, which amplifies nothing, where who counts depends on devices or on earlier rounds, or where a cohort is
    drawn from those that happen to take part: valid, as a client still counts at most once a round. Of unequal
    participation rates the largest: valid for every client, and conservative for the others.
    """
    refusals = {ASYNCHRONOUS: facts.synchronous, UNBOUNDED: facts.bounded_weights, SELECTED: facts.uniform_selection}
    for reason, holds in refusals.items():
        if not holds:
            raise Unaccountable(reason)
    rates, everyone = facts.participation_rates, facts.cohort is None or facts.cohort >= facts.clients
    if facts.sampled and not everyone and min(rates) == 1:
        return Sampling("fixed", cohort=facts.cohort, population=facts.clients)
    if facts.sampled and everyone and max(rates) < 1:
        return Sampling("poisson", rate=max(rates))
    return Sampling("everybody")


def example_epsilon(epochs: int, multiplier: float, delta: float, accountant: Accountant = "rdp") -> float:
    """Of one example, after so many epochs of a client's own DP-SGD with shuffled batches; arguments as of `Ledger`.

    Adjacent: the example's gradients become zeros, and the batches stay as they are. It is in exactly one batch of an
    epoch, so an epoch is one Gaussian release about it (parallel composition). Poisson amplification must not be used:
    shuffled batches are not drawn independently, and may lose far more privacy than Poisson's do; Chua et al., How
    Private are DP-SGD Implementations? (ICML 2024).
    """
    return Ledger(Sampling("everybody"), multiplier, delta, accountant).epsilon(epochs)


def dp_accounting() -> ModuleType:
    """The library, imported only where it is needed, as that takes a second; else ExtraMissing."""
    try:
        import dp_accounting as library
    except ImportError as error:
        raise ExtraMissing("epsilon needs dp-accounting: pip install 'fedsim-lab[privacy]'") from error
    logging.getLogger("absl").addFilter(_worth_saying)
    return library


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not that RDP leaves out an order that does not converge: that can only make epsilon larger."""
    return "failed to converge" not in str(record.msg)
