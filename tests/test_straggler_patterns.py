"""Models of stragglers: each against its definition, window by window; generators are maximal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.fleet.adversaries import ArbitraryStragglers, BurstyStragglers, StragglersPerRound
from fedsim.fleet.patterns import Arbitrary, Bursty, PerRound, maximal


def bursty(grid, burst, window, stragglers) -> bool:
    """The definition, slowly."""
    for start in range(max(1, len(grid) - window + 1)):
        part = grid[start : start + window]
        if part.any(axis=0).sum() > stragglers:
            return False
        for worker in part.T:
            rounds = np.flatnonzero(worker)
            if len(rounds) and rounds[-1] - rounds[0] + 1 > burst:
                return False
    return True


def arbitrary(grid, times, window, stragglers) -> bool:
    """The definition, slowly."""
    parts = [grid[start : start + window] for start in range(max(1, len(grid) - window + 1))]
    return all(part.any(axis=0).sum() <= stragglers and part.sum(axis=0).max() <= times for part in parts)


PATTERNS = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(0, 4)).map(
    lambda numbers: (min(numbers[:2]), max(numbers[:2]), numbers[2])
)


@settings(deadline=None)
@given(PATTERNS, st.integers(0, 2**31), st.floats(0.02, 0.6))
def test_they_are_what_they_are_defined_to_be(numbers, seed, density) -> None:
    grid = np.random.default_rng(seed).random((9, 4)) < density
    assert Bursty(*numbers).conforms(grid) == bursty(grid, *numbers)
    assert Arbitrary(*numbers).conforms(grid) == arbitrary(grid, *numbers)
    assert PerRound(numbers[2]).conforms(grid) == (grid.sum(axis=1).max() <= numbers[2])


@settings(deadline=None, max_examples=40)
@given(PATTERNS, st.integers(0, 2**31), st.sampled_from([Bursty, Arbitrary]))
def test_drawn_patterns_conform_and_nobody_can_be_added(numbers, seed, kind) -> None:
    pattern = kind(*numbers)
    grid = maximal(pattern, 8, 4, np.random.default_rng(seed))
    assert pattern.conforms(grid)
    for round, worker in np.argwhere(~grid):
        more = grid.copy()
        more[round, worker] = True
        assert not pattern.conforms(more)


def test_patterns_side_by_side_are_judged_each_alone() -> None:
    rng = np.random.default_rng(0)
    past, now = rng.random((5, 3, 4)) < 0.2, rng.random((5, 4)) < 0.3
    for pattern in (Bursty(1, 3, 2), Arbitrary(1, 3, 2), PerRound(1)):
        alone = [bool(pattern.admits(*pair)) for pair in zip(past, now, strict=True)]
        assert pattern.admits(past, now).tolist() == alone


@pytest.mark.parametrize(
    "straggling",
    [BurstyStragglers(clients=6, burst=2, window=4, stragglers=3), StragglersPerRound(clients=6, stragglers=2),
     ArbitraryStragglers(clients=6, times=2, window=5, stragglers=3)],
)  # fmt: skip
def test_a_fleet_can_have_them(straggling) -> None:
    """The same in whatever order it is asked; conforming, and nobody could be added."""
    again = replace(straggling)
    late = np.array([[straggling.factor(c, r, seed=1) > 1 for c in range(6)] for r in range(12)])
    assert [[again.factor(c, r, seed=1) > 1 for c in range(6)] for r in reversed(range(12))] == late[::-1].tolist()
    assert straggling.pattern.conforms(late)
    for round, worker in np.argwhere(~late):
        more = late.copy()
        more[round, worker] = True
        assert not straggling.pattern.conforms(more)
    assert not (late == [[again.factor(c, r, seed=2) > 1 for c in range(6)] for r in range(12)]).all()
