"""Any scenario that can be taken up, taken up anywhere, ends as it would have."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from drawn import faults, scenarios
from hypothesis import given, note, settings
from hypothesis import strategies as st
from kills import outcome, resumed, some, whole

from fedsim import experiment, scenario
from fedsim.errors import RunFailed, ScenarioError
from fedsim.repeating import refusal
from fedsim.trace import Trace

broken = st.just({}) | faults().map(lambda drawn: {"faults": drawn})


def taken_up(base: dict[str, Any], place: int) -> bool:
    """Whether it ran, could be taken up, and was, twice; then to the same end."""
    note(yaml.safe_dump(base))
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        try:
            (arm,) = scenario.read(base)
            made = experiment.assemble(arm)
            found, turns = whole(Path(folder, "whole"), base, patch)
        except (ScenarioError, RunFailed):
            return False
        if turns < 2 or refusal(made, made.simulation(Trace())):
            return False
        again = resumed(Path(folder, "again"), base, some(turns, 2, place), patch)
        assert outcome(again) == outcome(found)
    return True


def hunt(changes: int, examples: int, derandomize: bool = True) -> int:
    """How many of so many drawn scenarios, with up to so many changes, could be taken up."""
    could = []

    @settings(max_examples=examples, derandomize=derandomize)
    @given(scenarios(changes), broken, st.integers(0, 10**6))
    def all_of_them(drawn: dict[str, Any], bad: dict[str, Any], place: int) -> None:
        if "remote" not in json.dumps(drawn.get("executor")):  # clusters take longer than all else
            could.append(taken_up(drawn | bad, place))

    all_of_them()
    return sum(could)


def test_taken_up_anywhere_it_ends_the_same() -> None:
    assert hunt(1, 60) >= 10


@pytest.mark.soak
def test_many_that_are_taken_up_end_the_same() -> None:
    assert hunt(4, 2000, derandomize=False) >= 100
