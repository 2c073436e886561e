"""How much longer than usual one local training takes: a factor, and a delay on top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, ClassVar, Literal
from zipfile import BadZipFile

import numpy as np
from pydantic import Field

from fedsim.errors import ScenarioError, nearest
from fedsim.fleet.reading import above_zero, find, rows
from fedsim.rng import chance, key
from fedsim.units import Probability

NORMAL = NormalDist()


@dataclass(frozen=True)
class Stragglers:
    """Nobody straggles; the base of all the others."""

    source: ClassVar[str] = ""

    def factor(self, client: int, ordinal: int, seed: int) -> float:
        """What the client's n-th local training takes, over what its device needs: finite, above zero."""
        return 1.0

    def delay(self, client: int, ordinal: int, seed: int) -> float:
        """Seconds that the client's n-th local training takes beyond that: finite, at least 0."""
        return 0.0


@dataclass(frozen=True)
class Lognormal(Stragglers):
    """Log-normal factors with median 1. The default spread is synthetic."""

    source: ClassVar[str] = "synthetic"

    sigma: Annotated[float, Field(ge=0, le=10)] = 0.25

    def factor(self, client: int, ordinal: int, seed: int) -> float:
        """What this local training takes, over what the device needs."""
        level = chance(seed, "straggler", client, ordinal) or 2.0**-54  # the inverse is not finite at 0
        return math.exp(self.sigma * NORMAL.inv_cdf(level))


@dataclass(frozen=True)
class Pareto(Stragglers):
    """Heavy-tailed factors of at least 1: P(factor > x) = x ** -alpha. The default is synthetic."""

    source: ClassVar[str] = "synthetic"

    alpha: Annotated[float, Field(ge=0.1, allow_inf_nan=False)] = 2.0

    def factor(self, client: int, ordinal: int, seed: int) -> float:
        """What this local training takes, over what the device needs."""
        return (1 - chance(seed, "straggler", client, ordinal)) ** (-1 / self.alpha)


@dataclass(frozen=True)
class Exponential(Stragglers):
    """Factors of 1 plus an exponential variable with this mean. The default is synthetic."""

    source: ClassVar[str] = "synthetic"

    mean: Annotated[float, Field(ge=0, le=1e6)] = 0.5

    def factor(self, client: int, ordinal: int, seed: int) -> float:
        """What this local training takes, over what the device needs."""
        return 1 - self.mean * math.log1p(-chance(seed, "straggler", client, ordinal))


@dataclass(frozen=True)
class GilbertElliott(Stragglers):
    """Clients turn slow, stay slow for a while and recover: two states with a Markov chain over their local trainings.

    Gilbert (1960) and Elliott (1963), Bell System Technical Journal; for straggling workers: Krishnan, Ebrahimi and
    Khisti, Sequential Gradient Coding (ICLR 2023). The first state is drawn from the stationary distribution, in which
    the share p_slow / (p_slow + p_recover) is slow; slow spells last 1 / p_recover trainings on average. The default
    numbers are synthetic.
    """

    source: ClassVar[str] = "synthetic"

    p_slow: Probability = 0.05
    p_recover: Probability = 0.5
    slowdown: Annotated[float, Field(ge=1, le=1e6)] = 8.0
    stripes: Probability = 0.0
    """The share of clients, drawn by the seed, that turn slow more often than the others: stripes in a picture."""
    p_slow_striped: Probability = 0.5
    """Their own `p_slow`."""
    sigma: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Spread of a log-normal factor with median 1 on top, drawn for each training."""

    def factor(self, client: int, ordinal: int, seed: int) -> float:
        """What this local training takes, over what the device needs; the same in whatever order it is asked."""
        spells = self._spells.setdefault((seed, client), bytearray())
        while len(spells) <= ordinal:
            risk = self._risk(spells, self.p_slow_striped if self._striped(client, seed) else self.p_slow)
            spells.append(chance(seed, "straggler", client, len(spells)) < risk)
        noise = Lognormal(self.sigma).factor(client, ordinal, key(seed, "jitter")) if self.sigma else 1.0
        return self.slowdown * noise if spells[ordinal] else noise

    def _striped(self, client: int, seed: int) -> bool:
        return bool(self.stripes) and chance(seed, "stripe", client) < self.stripes

    def _risk(self, spells: bytearray, p_slow: float) -> float:
        """Probability that the next local training is slow."""
        if spells:
            return 1 - self.p_recover if spells[-1] else p_slow
        return p_slow / (p_slow + self.p_recover) if p_slow else 0.0

    @cached_property
    def _spells(self) -> dict[tuple[int, int], bytearray]:
        """For each (seed, client), whether its trainings are slow, as far as was asked: a memory, not a state."""
        return {}


@dataclass(frozen=True)
class Trace(Stragglers):
    """Recorded times of rounds, each over the median of its round.

    The file is a table of rounds x workers, in seconds: a CSV whose header names the workers, or an .npz (where it
    holds several tables, `profile` names one, or several with commas between, whose rounds follow one another). A
    client follows one worker, and its n-th training the n-th round; both start again at the end. `folders` is given by
    the run: a relative path is also looked up there.
    """

    source: ClassVar[str] = "a recorded trace"

    path: Path
    profile: str | None = None
    use: Literal["factor", "delay"] = "factor"
    """`factor`: over the median of the round, times what the device needs; `delay`: as it is, on top of that."""
    order: Literal["recorded", "drawn"] = "recorded"
    """Of rounds: as they were, or each drawn from all of them."""
    folders: Sequence[Path] = ()

    def __post_init__(self) -> None:
        _ = self.recorded  # reads the table now, so that a bad one is refused before anything runs

    def factor(self, client: int, ordinal: int, seed: int) -> float:
        """What this local training takes, over what the device needs."""
        return 1.0 if self.use == "delay" else self._at(client, ordinal, seed)

    def delay(self, client: int, ordinal: int, seed: int) -> float:
        """Seconds beyond what the device needs."""
        return 0.0 if self.use == "factor" else self._at(client, ordinal, seed)

    def _at(self, client: int, ordinal: int, seed: int) -> float:
        rounds = len(self.recorded)
        drawn = self.order == "drawn"
        round = int(chance(seed, "straggler", "round", ordinal) * rounds) if drawn else ordinal % rounds
        workers = self.recorded[round]
        return workers[client % len(workers)]

    @cached_property
    def recorded(self) -> list[list[float]]:
        """Factors or seconds, rounds x workers."""
        path = find(self.path, (Path(), *self.folders))
        seconds = table(path, self.profile)
        if self.use == "delay":
            return seconds.tolist()
        with np.errstate(all="ignore"):
            factors = seconds / np.median(seconds, axis=1, keepdims=True)
        if not (np.isfinite(factors) & (factors > 0)).all():
            raise ScenarioError(f"{path} has times that cannot be compared with the median of their round")
        return factors.tolist()


def table(path: Path, profile: str | None = None) -> np.ndarray:
    """Recorded seconds, (rounds, workers), of a CSV or .npz file; ScenarioError if it holds no such table."""
    seconds = _from_npz(path, profile) if path.suffix == ".npz" else _from_csv(path)
    if seconds.ndim != 2 or not seconds.size or not (np.isfinite(seconds) & (seconds > 0)).all():
        raise ScenarioError(f"{path} is not a table of rounds x workers with times above zero")
    return seconds


def _from_csv(path: Path) -> np.ndarray:
    return np.array([[row.read(worker, above_zero) for worker in row.cells] for row in rows(path)])


def _from_npz(path: Path, profile: str | None) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as tables:
            names = (profile or "").split(",")
            return np.concatenate([tables[_profile(path, name, tables.files)].astype(float) for name in names])
    except ScenarioError:
        raise
    except (AttributeError, TypeError, ValueError, OSError, EOFError, BadZipFile) as error:
        raise ScenarioError(f"{path} cannot be read as .npz: {error}") from None


def _profile(path: Path, profile: str, known: list[str]) -> str:
    if not profile and len(known) == 1:
        return known[0]
    if not profile:
        raise ScenarioError(
            f"{path} holds {len(known)} tables: name one as profile, such as {min(known, default='')!r}"
        )
    if profile not in known:
        raise ScenarioError(f"{path} holds no profile {profile!r}: {nearest(profile, known)}")
    return profile
