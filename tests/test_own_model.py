"""A user's own model that clients cannot train is one sentence, and not a traceback."""

from __future__ import annotations

import json

import pytest
from test_experiment import SMALL
from typer.testing import CliRunner

from fedsim.__main__ import app
from fedsim.errors import ScenarioError
from fedsim.experiment import assemble
from fedsim.scenario import read

OURS = """
import torch
from torch import nn

class Linear(nn.Module):
    wide = 64
    def __init__(self, shape, classes):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(self.wide, classes))
    def forward(self, x):
        return self.net(x)

class Wide(Linear):
    wide = 65

class Flat(Linear):
    def forward(self, x):
        return self.net(x)[:, 0]

class Two(Linear):
    def forward(self, x):
        return self.net(x), x

class Draws(Linear):
    def forward(self, x):
        return self.net(nn.functional.dropout(x, 0.5))

class Changes(Linear):
    def forward(self, x):
        x += 1
        return self.net(x)

class Looks(Linear):
    def forward(self, x):
        return self.net(x) if x.sum() > 0 else -self.net(x)

class Dropping(Linear):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.net.append(nn.Dropout())

class Fixed(Linear):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.net[1].bias.requires_grad_(False)

class Short(Linear):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)
        self.half()

class Broken(nn.Module):
    def __init__(self, shape, classes):
        self.names = {}["weights"]

def function(shape, classes):
    return 5
"""


@pytest.fixture
def ours(tmp_path, monkeypatch):
    """By its name, a scenario with one of these models."""
    (tmp_path / "ours_for_tests.py").write_text(OURS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda name: SMALL | {"model": f"ours_for_tests:{name}"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Wide", r"it cannot take examples of shape \(1, 8, 8\) of torch.float32: RuntimeError: mat1 and mat2 .*"
                 r"\(ours_for_tests.py, line 11\)"),
        ("Flat", r"of 2 examples it gives \(2,\), where scores \(B, outputs\) are read"),
        ("Two", r"of 2 examples it gives tuple, where scores"),
        ("Draws", r"it gives other scores each time"),
        ("Changes", r"it changes the examples that it is given"),
        ("Looks", r"its FLOPs are counted on torch's meta device, where there are no numbers"),
        ("Dropping", r"layer 'net.2' drops units at random"),
        ("Fixed", r"the model has no parameters, or frozen ones"),
        ("Short", r"parameter 'net.1.weight' is of torch.float16, not of torch.float32"),
        ("Broken", r"KeyError: 'weights' \(ours_for_tests.py, line 54\)"),
        ("function", r"5 is no torch.nn.Module"),
    ],
)  # fmt: skip
def test_what_clients_cannot_train_is_refused(ours, name, said) -> None:
    [arm] = read(ours(name))
    with pytest.raises(ScenarioError, match=rf"model\b.*{said}") as refused:
        assemble(arm)
    assert "\n" not in str(refused.value)


def test_what_they_can_train_is_trained(ours, tmp_path) -> None:
    [arm] = read(ours("Linear"))
    assert assemble(arm).layout.size == 650


def test_from_the_command_line(ours, tmp_path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(json.dumps(ours("Wide")))
    done = CliRunner().invoke(app, ["run", str(file), "--out", str(tmp_path / "runs")])
    assert isinstance(done.exception, ScenarioError)
    assert str(done.exception).startswith(f"{file}:1: model: ours_for_tests:Wide: it cannot take examples")
    assert not (tmp_path / "runs").exists()
