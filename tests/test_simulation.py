"""The clock and its processes, by themselves."""

from __future__ import annotations

import gc

import pytest

from fedsim.clock import FIRST_RANK, Clock, Cut, Moment, Steps, seldom_collected


def watched(clock: Clock, waits, seen: list, name: str = "", after=()) -> Steps:
    """Notes when it goes on; when it is cut it says so and then waits for what comes `after`."""
    try:
        for wait in waits:
            seen.append((name, clock.now))
            yield wait
        seen.append((name, clock.now))
    except Cut:
        seen.append((name, clock.now, "cut"))
        yield from after


def test_a_process_waits_for_microseconds_and_for_moments() -> None:
    clock, seen = Clock(), []
    bell = Moment(clock, FIRST_RANK)
    clock.start(watched(clock, [3, bell, 5], seen), FIRST_RANK)
    clock.call(10, FIRST_RANK, bell.happen)
    clock.run()
    assert [time for _, time in seen] == [0, 3, 10, 15]


def test_equal_times_are_taken_by_rank_and_a_start_comes_before_all_of_them() -> None:
    clock, seen = Clock(), []
    clock.start(watched(clock, [5, 0], seen, "late"), FIRST_RANK + 1)
    clock.start(watched(clock, [5, 0], seen, "early"), FIRST_RANK)
    clock.call(5, FIRST_RANK, lambda: clock.start(watched(clock, [], seen, "new"), FIRST_RANK + 9))
    clock.run()
    at_five = [name for name, time in seen if time == 5]
    assert at_five == ["new", "early", "early", "late", "late"]


@pytest.mark.parametrize("wait", [9, "moment"])
def test_a_process_that_is_cut_is_over_and_what_it_waited_for_finds_nobody(wait) -> None:
    clock, seen = Clock(), []
    bell = Moment(clock, FIRST_RANK).happen(9)
    process = clock.start(watched(clock, [bell if wait == "moment" else wait, 1], seen), FIRST_RANK)
    clock.call(4, FIRST_RANK, process.cut)
    clock.run()
    assert seen == [("", 0), ("", 4, "cut")]
    assert clock.now == 9


def test_a_process_that_waits_after_it_was_cut_is_at_fault() -> None:
    clock = Clock()
    process = clock.start(watched(clock, [9], [], after=[1]), FIRST_RANK)
    clock.call(4, FIRST_RANK, process.cut)
    with pytest.raises(RuntimeError, match="waits again"):
        clock.run()


def test_the_garbage_collector_is_as_before_whatever_happens() -> None:
    before = gc.get_threshold()
    during = []

    @seldom_collected()
    def broken() -> None:
        during.append(gc.get_threshold())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert during[0] > before == gc.get_threshold()
