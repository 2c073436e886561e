"""Gradient codes: what is decoded is the gradient, whoever straggles as the code allows; loads are the formulas'."""

from __future__ import annotations

from itertools import product
from math import ceil

import numpy as np
import pytest
from codes import error, play, subsets
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.coding import Backup, BernoulliCode, GradientCode, MiniTask, Multiplexed, SelectiveRepeat, Uncoded
from fedsim.coding.matrices import coefficients, decoding
from fedsim.coding.multiplexed import least_load, multiplexed_load
from fedsim.fleet.patterns import Arbitrary, Bursty, Pattern, PerRound, maximal

MULTIPLEXED = [(1, 2, 1), (1, 2, 2), (1, 3, 2), (2, 3, 2), (2, 3, 3), (1, 4, 3), (3, 4, 2), (2, 4, 5), (1, 2, 0)]
REPEATED = [(1, 2, 2), (1, 2, 3), (1, 3, 2), (2, 3, 3), (2, 5, 4), (1, 4, 3), (3, 4, 4)]


def sizes(code) -> list[float]:
    return [(chunk.end - chunk.start) / code.workers for chunk in code.chunks]


def every_code(workers: int, jobs: int | None = None):
    """One of each kind, and more where the parameters change what happens."""
    yield Uncoded(workers=workers, jobs=jobs)
    yield Uncoded(workers=workers, jobs=jobs, ignore=2)
    yield Backup(workers=workers, jobs=jobs)
    yield BernoulliCode(workers=workers, jobs=jobs, copies=3, ignore=2)
    yield GradientCode(workers=workers, jobs=jobs, stragglers=0)
    yield GradientCode(workers=workers, jobs=jobs, stragglers=2)
    yield GradientCode(workers=workers, jobs=jobs, stragglers=2, kind="repetition")
    yield SelectiveRepeat(workers=workers, jobs=jobs, burst=2, window=3, stragglers=3)
    yield SelectiveRepeat(workers=workers, jobs=jobs, burst=1, window=3, stragglers=4, kind="repetition")
    for burst, window, stragglers in [*MULTIPLEXED, (1, 2, workers), (2, 3, workers), (1, 3, workers - 1)]:
        yield Multiplexed(workers=workers, jobs=jobs, burst=burst, window=window, stragglers=stragglers)
    yield Multiplexed(workers=workers, jobs=jobs, burst=1, window=2, stragglers=2, kind="repetition")


# The matrices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", range(1, 13))
def test_every_subset_of_stragglers_is_decoded_and_no_larger_one_of_neighbours(workers) -> None:
    """Exhaustive: every code for up to twelve workers, and everybody who may straggle."""
    for stragglers in range(workers):
        matrix = coefficients("cyclic", workers, stragglers, seed=1)
        assert ((matrix != 0).sum(axis=1) == stragglers + 1).all()
        for late in subsets(workers, stragglers):
            if late.sum() == stragglers:
                heard = np.flatnonzero(~late)
                assert np.abs(decoding(matrix, heard) @ matrix[heard] - 1).max() < 1e-8
        if stragglers + 1 < workers:
            heard = np.arange(stragglers + 1, workers)
            residual = np.abs(decoding(matrix, heard) @ matrix[heard] - 1).max()
            assert residual > 1e-3, "a chunk that nobody has left was decoded"


@pytest.mark.parametrize(("workers", "stragglers"), [(256, 15), (256, 27), (64, 12)])
def test_large_codes_are_decoded(workers, stragglers) -> None:
    matrix = coefficients("cyclic", workers, stragglers, seed=1)
    rng = np.random.default_rng(0)
    for _ in range(5):
        heard = np.sort(rng.permutation(workers)[stragglers:])
        assert np.abs(decoding(matrix, heard) @ matrix[heard] - 1).max() < 1e-6


def test_a_repetition_code_needs_groups_that_divide_the_workers() -> None:
    with pytest.raises(ValueError, match="stragglers \\+ 1 = 3 to divide the 8 workers"):
        GradientCode(workers=8, stragglers=2, kind="repetition")
    code = GradientCode(workers=9, stragglers=2, kind="repetition", jobs=1)
    [*tasks] = code.assign(0)
    for worker in (0, 4, 8):  # one of each group is enough
        code.arrived(worker, tasks[worker])
    assert code.conforms()
    assert code.end() == [0]
    assert error(code, 0) < 1e-12


# Loads ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [6, 9, 12])
def test_chunks_are_everything_once_and_rounds_cost_the_load(workers) -> None:
    """In the middle of a run, where no slot is empty, every worker looks at the formula's part of the data."""
    for code in every_code(workers, jobs=40):
        size = sizes(code)
        assert sum(size) == pytest.approx(1, abs=1e-12)
        for owner in range(workers):
            own = [chunk for chunk in code.chunks if chunk.owner == owner]
            assert [chunk.start for chunk in own] == [0.0, *(chunk.end for chunk in own[:-1])]
            assert own[-1].end == 1
        rng = np.random.default_rng(3)
        for round in range(12):
            tasks = code.assign(round)
            parts = [sum(size[chunk] for task in own for chunk in task.combination.chunks) for own in tasks]
            if round > code.delay and not isinstance(code, BernoulliCode):
                everybody = code.stragglers == workers if isinstance(code, Multiplexed) else False
                for part in parts:  # where everybody may straggle, slots for a second attempt are empty without need
                    assert part == pytest.approx(code.load) or (everybody and part < code.load)
            for worker in range(workers):
                if rng.random() < 0.9 or not code.exact:
                    code.arrived(worker, tasks[worker])
            for job in code.end():
                code.forget(job)


def test_the_papers_loads() -> None:
    assert multiplexed_load(256, 1, 2, 27) == pytest.approx(0.007543, abs=5e-7)
    assert SelectiveRepeat(workers=256, burst=2, window=3, stragglers=23).s == 12
    assert SelectiveRepeat(workers=256, burst=2, window=3, stragglers=23).load == pytest.approx(0.050781, abs=5e-7)
    assert GradientCode(workers=256, stragglers=15).load == pytest.approx(0.0625)
    assert least_load(256, 1, 2, 27) == pytest.approx(0.004124, abs=5e-7)


@given(st.integers(2, 300), st.integers(2, 40), st.data())
def test_no_load_lies_below_the_bound_which_multiplexing_meets_at_its_ends(workers, window, data) -> None:
    burst = data.draw(st.integers(1, window - 1))
    stragglers = data.draw(st.integers(0, workers - 1))
    load, least = multiplexed_load(workers, burst, window, stragglers), least_load(workers, burst, window, stragglers)
    assert load >= least * (1 - 1e-12)
    assert multiplexed_load(workers, burst, window, workers - 1) == pytest.approx(
        least_load(workers, burst, window, workers - 1)
    )
    assert multiplexed_load(workers, burst, window, workers) == pytest.approx(
        (window - 1 + burst) / (workers * (window - 1))
    )


# Nobody is missed -----------------------------------------------------------------------------------------------------


def test_without_stragglers_every_code_decodes_every_job_as_soon_as_it_can() -> None:
    for code in every_code(6, jobs=5):
        found = play(code, [])
        assert set(found) == set(range(5))
        assert all(error < 1e-10 for _, error in found.values()), code
        waits = code.window - 2 + code.groups if isinstance(code, Multiplexed) else 0
        assert [round - job for job, (round, _) in sorted(found.items())] == [waits] * 5


def test_multiplexing_with_lambda_0_is_uncoded_and_so_is_gc_with_s_0() -> None:
    assert GradientCode(workers=5, stragglers=0).load == Uncoded(workers=5).load
    assert multiplexed_load(5, 1, 2, 0) == pytest.approx(1 / 5)
    tasks = GradientCode(workers=5, stragglers=0).assign(0)
    assert [task.combination.chunks for [task] in tasks] == [(worker,) for worker in range(5)]


def every_pattern(pattern: Pattern, rounds: int, workers: int):
    """All that conform; exhaustive."""
    for cells in product([False, True], repeat=rounds * workers):
        grid = np.array(cells).reshape(rounds, workers)
        if pattern.conforms(grid):
            yield grid


def test_every_bursty_pattern_of_a_small_case_is_survived_by_multiplexing() -> None:
    """n = 3, B = 1, W = 2, lambda = 2, four jobs: all of them."""
    count = 0
    for grid in every_pattern(Bursty(1, 2, 2), rounds=5, workers=3):
        code = Multiplexed(workers=3, jobs=4, burst=1, window=2, stragglers=2)
        found = play(code, grid)
        assert len(found) == 4
        assert all(round <= job + 1 and error < 1e-8 for job, (round, error) in found.items())
        count += 1
    assert count > 300


@pytest.mark.parametrize(("burst", "window", "stragglers"), [(1, 2, 2), (1, 3, 2), (2, 3, 2)])
def test_every_bursty_pattern_of_a_small_case_is_survived_by_selective_repeat(burst, window, stragglers) -> None:
    for grid in every_pattern(Bursty(burst, window, stragglers), rounds=5, workers=3):
        code = SelectiveRepeat(workers=3, jobs=4, burst=burst, window=window, stragglers=stragglers)
        found = play(code, grid)
        assert len(found) == 4
        assert all(round <= job + burst and error < 1e-8 for job, (round, error) in found.items())


def survive(code, grid, conforming=True) -> None:
    found = play(code, grid, conforming)
    assert set(found) == set(range(code.jobs))
    assert all(round <= job + code.delay and error < 1e-7 for job, (round, error) in found.items())


@pytest.mark.parametrize(("burst", "window", "stragglers"), MULTIPLEXED)
@pytest.mark.parametrize("workers", [5, 8])
def test_multiplexing_survives_maximal_patterns_of_both_models(burst, window, stragglers, workers) -> None:
    """A hundred random maximal patterns each: bursty as designed, and arbitrary with N = B, W' = W + B - 1."""
    rng = np.random.default_rng(burst + 10 * window + 100 * stragglers)
    both = Bursty(burst, window, stragglers), Arbitrary(burst, window + burst - 1, stragglers)
    for pattern in both:
        for _ in range(100):
            code = Multiplexed(workers=workers, jobs=9, burst=burst, window=window, stragglers=stragglers)
            survive(code, maximal(pattern, 9 + code.delay, workers, rng), conforming=pattern is both[0])


@pytest.mark.parametrize(("burst", "window", "stragglers"), REPEATED)
@pytest.mark.parametrize("workers", [5, 8])
def test_selective_repeat_survives_maximal_patterns_of_both_models(burst, window, stragglers, workers) -> None:
    """A hundred random maximal patterns each: bursty as designed, and at most s in every round."""
    rng = np.random.default_rng(burst + 10 * window + 100 * stragglers)
    s = ceil(burst * stragglers / (window - 1 + burst))
    for pattern in (Bursty(burst, window, stragglers), PerRound(s)):
        for _ in range(100):
            code = SelectiveRepeat(workers=workers, jobs=9, burst=burst, window=window, stragglers=stragglers)
            survive(code, maximal(pattern, 9 + code.delay, workers, rng))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_whatever_the_code_says_it_can_bear_it_can(data) -> None:
    """Any stragglers, with anybody let through until the code is content: as the master does. Every job is in time."""
    workers, seed = data.draw(st.integers(2, 7)), data.draw(st.integers(0, 2**31))
    burst = data.draw(st.integers(1, 3))
    stragglers = data.draw(st.integers(0, workers))
    if data.draw(st.booleans()):
        window = burst + data.draw(st.integers(1, 3))
        code = Multiplexed(workers=workers, jobs=8, burst=burst, window=window, stragglers=stragglers)
    else:
        window = burst * data.draw(st.integers(1, 3)) + 1
        if -(-burst * stragglers // (window - 1 + burst)) >= workers:
            stragglers = 0
        code = SelectiveRepeat(workers=workers, jobs=8, burst=burst, window=window, stragglers=stragglers)
    rng, found = np.random.default_rng(seed), {}
    for round in range(8 + code.delay):
        tasks = code.assign(round)
        order = rng.permutation(workers)
        for worker in order[: rng.integers(0, workers + 1)]:
            code.arrived(int(worker), tasks[worker])
        for worker in order:
            if not code.conforms():
                code.arrived(int(worker), tasks[worker])
        assert code.conforms()
        for job in code.end():
            found[job] = round, error(code, job)
            code.forget(job)
    assert set(found) == set(range(8))
    assert all(round <= job + code.delay and wrong < 1e-6 for job, (round, wrong) in found.items())


def test_one_straggler_more_than_a_code_bears_is_waited_for() -> None:
    for code in (GradientCode(workers=5, stragglers=2), Uncoded(workers=5, ignore=2)):
        tasks = code.assign(0)
        for worker in (0, 1):
            code.arrived(worker, tasks[worker])
        assert not code.conforms()
        code.arrived(4, tasks[4])
        assert code.conforms()


def test_gradient_codes_bear_s_stragglers_and_not_one_fewer() -> None:
    """The public code of the paper asks for fewer than s, at the load of s + 1."""
    for late in subsets(5, 2):
        code = GradientCode(workers=5, stragglers=2, jobs=1)
        survive(code, [late])


# Codes that are not exact, and copies ---------------------------------------------------------------------------------


def test_ignoring_the_slowest_decodes_the_mean_of_the_others() -> None:
    code = Uncoded(workers=4, ignore=1, jobs=1)
    tasks = code.assign(0)
    for worker in (0, 1, 3):
        code.arrived(worker, tasks[worker])
    assert code.end() == [0]
    assert {combination.chunks: weight for combination, weight in code.decode(0).items()} == {
        (0,): pytest.approx(4 / 3), (1,): pytest.approx(4 / 3), (3,): pytest.approx(4 / 3)}  # fmt: skip
    assert not code.exact


def test_a_bernoulli_code_decodes_what_comes_nearest() -> None:
    """No other combination of those heard comes nearer to the sum of all; with all heard it misses no chunk."""
    code = BernoulliCode(workers=10, copies=3, ignore=3, jobs=1, seed=2)
    assert code.matrix.sum() / 10 == pytest.approx(3, abs=1)
    tasks = code.assign(0)
    for worker in range(7):
        code.arrived(worker, tasks[worker])
    assert code.conforms()
    code.end()
    weights = code.decode(0)
    a = np.array([weights.get(row, 0.0) for row in code.rows])
    best = np.square(a @ code.matrix - 1).sum()
    rng = np.random.default_rng(0)
    for _ in range(100):
        other = a + np.where([row in weights for row in code.rows], 0.1 * rng.standard_normal(10), 0)
        assert np.square(other @ code.matrix - 1).sum() >= best - 1e-12


def test_copies_go_to_who_is_done_and_the_first_answer_counts() -> None:
    code = Backup(workers=4, jobs=1)
    tasks = code.assign(0)
    for worker in (2, 1):
        code.arrived(worker, tasks[worker])
    assert code.backup(2) == tasks[0]
    assert code.backup(1) == tasks[3]
    assert code.backup(1) == ()
    code.arrived(2, tasks[0])
    assert not code.conforms()
    code.arrived(1, tasks[3])
    assert code.conforms()
    assert code.late.tolist() == [True, False, False, True]
    assert code.end() == [0]
    assert error(code, 0) < 1e-12


# What makes no code ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "arguments", "sentence"),
    [(GradientCode, {"stragglers": 6}, "survives 0 to 5 stragglers, not 6"),
     (SelectiveRepeat, {"burst": 2, "window": 4, "stragglers": 2}, "window has to be a multiple of burst and one more"),
     (SelectiveRepeat, {"burst": 2, "window": 3, "stragglers": 2, "models": 2}, "a delay of 2 rounds needs models: 3"),
     (Multiplexed, {"burst": 2, "window": 2, "stragglers": 2}, "burst has to be below window"),
     (Multiplexed, {"burst": 1, "window": 2, "stragglers": 7}, "of 6 workers 7 cannot straggle"),
     (Uncoded, {"ignore": 6}, "of 6 workers 6 cannot be ignored"),
     (BernoulliCode, {"copies": 7, "ignore": 0}, "cannot hold 7 copies")],
)  # fmt: skip
def test_what_cannot_be_is_refused(kind, arguments, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        kind(workers=6, **arguments)


def test_empty_slots_are_nobodys_straggling() -> None:
    """Before the first job and behind the last, slots are empty; a worker without any is not waited for."""
    code = SelectiveRepeat(workers=4, jobs=2, burst=1, window=2, stragglers=2)
    for round in range(2):
        for worker, tasks in enumerate(code.assign(round)):
            code.arrived(worker, tasks)
        assert code.end() == [round]
        code.forget(round)
    assert code.assign(2) == [()] * 4
    assert not code.late.any()
    assert code.over
    code = Multiplexed(workers=3, jobs=1, burst=1, window=2, stragglers=1)
    assert [len(tasks) for tasks in code.assign(0)] == [1] * 3
    assert isinstance(code.assign(1)[0][0], MiniTask)
