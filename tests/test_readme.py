"""What the README shows is what happens: its own aggregator, in a user's own file, under a user's own name."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from servers import SIZE, Driver, roster, start

import fedsim
from fedsim.describe import describe
from fedsim.errors import ScenarioError

README = (Path(__file__).parent.parent / "README.md").read_text()
HALVING = "my_rules:Halving"


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """The README's file, where Python finds it."""
    [code] = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "my_rules.py" in block]
    (tmp_path / "my_rules.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rules", raising=False)
    spec = importlib.util.find_spec("my_rules")
    assert spec is not None
    assert code.count("\n") <= 36
    yield __import__("my_rules")
    sys.modules.pop("my_rules", None)


SMALL = {
    "until": {"versions": 3},
    "data": {"digits": {"partition": "iid"}},
    "model": "logistic",
    "fleet": {"clients": 12, "devices": "fedscale"},
    "local": {"steps": 2, "batch": 8, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {HALVING: {"goal": 2}},
    "evaluate": {"every": "1 h"},
}


def test_the_readmes_own_aggregator_runs_from_a_scenario(rules, tmp_path) -> None:
    found = fedsim.run(SMALL, out=tmp_path / "runs", picture=False)
    assert found.receipt["counts"]["versions"] == 3
    assert found.scenario["aggregator"] == {HALVING: {"concurrency": 10, "goal": 2, "lr": 1.0}}


def test_its_arguments_are_checked_like_any_other(rules, tmp_path) -> None:
    with pytest.raises(ScenarioError, match="there is no key 'gaol' here; did you mean goal"):
        fedsim.run(SMALL | {"aggregator": {HALVING: {"gaol": 2}}}, out=tmp_path)
    with pytest.raises(ScenarioError, match="goal"):
        fedsim.run(SMALL | {"aggregator": {HALVING: {"goal": "many"}}}, out=tmp_path)


def test_it_says_of_itself_what_its_author_wrote(rules) -> None:
    words = describe("aggregator", HALVING)
    assert "one that is s versions old counts 2 ** -s" in words
    assert "concurrency = 10\n    How many clients are at work." in words


def test_it_does_what_it_says(rules) -> None:
    """The slow client's update is two versions old, so it counts a quarter over the goal; bad numbers are refused."""
    aggregator = rules.Halving(torch.zeros(SIZE), roster(), concurrency=3, goal=2)
    driver = Driver(aggregator, 3)
    slow, *others = sorted(driver.busy)
    for client in (*others, *others, others[0]):
        driver.hear(client, torch.zeros(SIZE))
    driver.hear(slow, torch.ones(SIZE))
    assert aggregator.version == 3
    assert torch.allclose(aggregator.params, torch.full((SIZE,), 0.25 / 2))
    driver.hear(min(driver.busy), torch.full((SIZE,), float("nan")))
    driver.hear(min(driver.busy), torch.zeros(SIZE))
    assert [refusal.fault for refusal in aggregator.refused] == ["infinite"]
    assert torch.isfinite(aggregator.params).all()
    assert start().shape == aggregator.params.shape


@pytest.mark.parametrize(
    ("family", "name", "sentence"),
    [("agregator", "fedavg", "there is no family 'agregator'; did you mean aggregator"),
     ("aggregator", "fedstal", "there is no aggregator 'fedstal'; did you mean fedstale"),
     ("aggregator", "nowhere:Rule", "cannot load 'nowhere:Rule'")],
)  # fmt: skip
def test_what_does_not_exist_cannot_be_described(family, name, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        describe(family, name)


def test_every_built_in_plug_in_describes_itself() -> None:
    from fedsim.describe import plugins

    for family, members in plugins().items():
        for name in members:
            assert len(describe(family, name).splitlines()[2]) > 10, (family, name)


def test_the_readmes_own_loop_runs() -> None:
    [code] = [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "import Frugal" in block]
    found: dict = {}
    with torch.random.fork_rng(devices=[]):
        exec(code, found)
    assert found["optimizer"].state[found["embedding"]]["exp_avg"].shape == (50, 16)
    assert found["optimizer"].state[found["rest"][0]]["exp_avg"].shape == (64, 4)
