"""Which code suits workers whose times were recorded: profile, fit, try every candidate over the recording, choose.

The paper's own procedure: Krishnan, Ebrahimi and Khisti, Sequential Gradient Coding (ICLR 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.coding.multiplexed import least_load, multiplexed_load
from fedsim.coding.replay import Replay, Totals
from fedsim.coding.selective_repeat import repeated_stragglers
from fedsim.errors import ScenarioError
from fedsim.fleet.reading import find
from fedsim.fleet.stragglers import table


@dataclass(frozen=True)
class Profile:
    """Recorded times of workers that look at one part of the data."""

    load: float
    """That part, in [0, 1]."""
    seconds: np.ndarray
    """(rounds, workers)."""


def read_profile(text: str, folders: Sequence[Path]) -> Profile:
    """The profile that is written as LOAD=FILE, or LOAD=FILE:TABLE where an .npz holds several.

    Raises:
        ScenarioError: if it is not, or there is no such table.
    """
    load, _, rest = text.partition("=")
    name, _, profile = rest.partition(":")
    try:
        part = float(load)
    except ValueError:
        part = math.nan
    if not (0 <= part <= 1 and name):
        raise ScenarioError(f"{text}: expected LOAD=FILE, or LOAD=FILE:TABLE, such as 0.25=times.csv; LOAD is the part "
                            "of the data that the workers looked at, in [0, 1]")  # fmt: skip
    return Profile(part, table(find(Path(name), (Path(), *folders)), profile or None))


def slope_of(profiles: Sequence[Profile]) -> float:
    """Seconds that the whole data take: least squares of mean time against load. ScenarioError if loads are alike."""
    loads = [profile.load for profile in profiles]
    if len(set(loads)) < 2:
        raise ScenarioError("profiles of at least two loads are needed to fit time against load, or a slope")
    return float(np.polyfit(loads, [profile.seconds.mean() for profile in profiles], deg=1)[0])


def without_work(profiles: Sequence[Profile], slope: float) -> np.ndarray:
    """Seconds (rounds, workers) of the smallest load, less what it takes; never less than a microsecond."""
    least = min(profile.load for profile in profiles)
    found = [profile.seconds for profile in profiles if profile.load == least]
    if len({seconds.shape[1] for seconds in found}) > 1:
        raise ScenarioError(f"the profiles of load {least:g} differ in their workers")
    return np.maximum(np.concatenate(found) - slope * least, 1e-6)


@dataclass(frozen=True)
class Candidate:
    """A code, and what a replay says of it."""

    name: str
    arguments: dict[str, Any]
    load: float
    least: float
    """The load that no code which bears the same stragglers can go below."""
    copies: float
    """Of the data, that leave their owners."""
    seconds: float
    waited_out: int
    straggled: int

    def scenario(self, grid: Grid, replay: Replay) -> dict[str, Any]:
        """As a scenario says it."""
        ways = {"models": grid.models, "mu": replay.mu, "wait_out": replay.wait_out}
        return {"coding": {self.name: {**self.arguments, **ways}}}


@dataclass(frozen=True)
class Grid:
    """The candidates: all codes whose delay is hidden by so many models trained in turn, up to a longest window."""

    workers: int
    models: int
    window: int

    def multiplexed(self) -> list[tuple[int, int]]:
        """Burst and window, with a delay W - 2 + B."""
        pairs = ((burst, window) for burst in range(1, self.models) for window in range(burst + 1, self.window + 1))
        return [(burst, window) for burst, window in pairs if window - 2 + burst < self.models]

    def selective_repeat(self) -> list[tuple[int, int]]:
        """Burst and window, with a delay B."""
        return [(b, window) for b in range(1, self.models) for window in range(b + 1, self.window + 1, b)]

    @property
    def tries(self) -> int:
        """How many replays `search` takes."""
        return 2 + len(self.multiplexed()) + len(self.selective_repeat())


def search(replay: Replay, grid: Grid) -> Iterator[list[Candidate]]:
    """Replay every candidate, some at a time."""
    n = grid.workers
    yield _candidates("uncoded", [{}], [1 / n], [1 / n], [0.0], replay.uncoded())
    some = np.arange(1, n)
    gc, loads = [{"stragglers": s} for s in some.tolist()], (some + 1) / n
    yield _candidates("gc", gc, loads, loads, some, replay.gradient_code(some))
    for burst, window in grid.selective_repeat():
        s = np.array([repeated_stragglers(burst, window, each) for each in range(1, n + 1)])
        fit = 1 + np.flatnonzero(s < n)
        given, least = _bursty(n, burst, window, fit)
        loads, copies = (s[fit - 1] + 1) / n, s[fit - 1]
        yield _candidates("srsgc", given, loads, least, copies, replay.selective_repeat(burst, window, fit))
    for burst, window in grid.multiplexed():
        fit = np.arange(1, n + 1)
        given, least = _bursty(n, burst, window, fit)
        loads = [multiplexed_load(n, burst, window, each) for each in fit.tolist()]
        copies = fit * np.where(fit < n, burst / (burst + (window - 1) * (fit + 1)), 0.0)
        yield _candidates("msgc", given, loads, least, copies, replay.multiplexed(burst, window, fit))


def _bursty(workers: int, burst: int, window: int, stragglers: np.ndarray) -> tuple[list[dict[str, Any]], list[float]]:
    """The arguments of codes that bear such stragglers, and the least loads of any."""
    given = [{"burst": burst, "window": window, "stragglers": each} for each in stragglers.tolist()]
    return given, [least_load(workers, **arguments) for arguments in given]


def _candidates(
    name: str, arguments: Iterable[dict[str, Any]], loads: Iterable[float], least: Iterable[float],
    copies: Iterable[float], totals: Totals,
) -> list[Candidate]:  # fmt: skip
    rows = zip(arguments, loads, least, copies, totals.seconds, totals.waited_out, totals.straggled, strict=True)
    return [Candidate(name, given, float(load), float(bound), float(copy), float(seconds), int(waited), int(late))
            for given, load, bound, copy, seconds, waited, late in rows]  # fmt: skip


def best(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The fastest of each code, the fastest first; among equals the one of the least load."""
    ranked = sorted(candidates, key=lambda candidate: (candidate.seconds, candidate.load))
    names = dict.fromkeys(candidate.name for candidate in ranked)
    return [next(candidate for candidate in ranked if candidate.name == name) for name in names]
