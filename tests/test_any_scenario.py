"""Any scenario ends, reaches its budget or says in a sentence why not; what breaks shrinks to a small file."""

from __future__ import annotations

from tempfile import TemporaryDirectory

import pytest
import yaml
from drawn import BASE, faults, scenarios
from hypothesis import given, note, settings
from watching import watched

import fedsim
from fedsim.errors import RunFailed, ScenarioError


def outcome(scenario) -> str:
    """Run it, and check what may be relied on whatever it says."""
    with TemporaryDirectory() as folder:
        try:
            with watched():
                run = fedsim.run(scenario, out=folder, picture=False)
        except (ScenarioError, RunFailed) as error:
            return f"{type(error).__name__}: {error}"
        last = run.metrics.iloc[-1]
        assert run.finished
        assert last.version >= 3 or last.time_s >= 86_400
        return "ended"


@settings(max_examples=60)
@given(scenarios())
def test_any_scenario_ends_or_says_why_not(scenario) -> None:
    note(yaml.safe_dump(scenario))
    assert not outcome(scenario).endswith(": ")


@settings(max_examples=60)
@given(scenarios(1), faults())
def test_any_scenario_bears_faults_or_says_why_not(scenario, drawn) -> None:
    note(yaml.safe_dump(scenario | {"faults": drawn}))
    assert not outcome(scenario | {"faults": drawn}).endswith(": ")


@pytest.mark.soak
@settings(max_examples=3000, derandomize=False)
@given(scenarios(6))
def test_many_scenarios_end_or_say_why_not(scenario) -> None:
    note(yaml.safe_dump(scenario))
    assert not outcome(scenario).endswith(": ")


def test_the_base_ends() -> None:
    assert outcome(BASE | {"aggregator": "fedavg"}) == "ended"
