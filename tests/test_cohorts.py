"""The benchmark of stacks checks that all ways lead to the same, and says which machine gave its numbers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from loading import loaded

FILE = Path(__file__).parent.parent / "bench" / "cohorts.py"


@pytest.fixture
def cohorts(monkeypatch) -> ModuleType:
    """On small batches."""
    module = loaded(FILE, monkeypatch)
    monkeypatch.setattr(module, "BATCH", 2)
    return module


def test_every_way_that_there_is_on_a_cpu_is_timed(cohorts, tmp_path) -> None:
    table = cohorts.main(tmp_path, counts=(1, 2), steps=1, repeats=1)
    ways = {name: set(rows["way"]) for name, rows in table.groupby("model")}
    assert ways == {"mlp": {"bare", "vmap", "bmm"}, "cnn": {"bare", "vmap"}, "transformer": {"bare", "vmap"}}
    assert (table["client_steps_per_second"] > 0).all()
    assert (table.loc[table["way"] == "bare", "over_bare"] == 1).all()
    assert table["card"].all()
    assert {path.name for path in tmp_path.iterdir()} == {"cohorts.csv", "cohorts.png"}


def test_nothing_is_timed_that_leads_elsewhere(cohorts, monkeypatch) -> None:
    def wrong(stack):
        right = cohorts.vmapped(stack)

        def step() -> None:
            right()
            stack.params["1.weight"][-1, 0] += 0.01

        return step

    monkeypatch.setitem(cohorts.WAYS, "vmap", wrong)
    with pytest.raises(AssertionError, match=r"mlp, 2 clients: vmap leads elsewhere: .* in 1.weight"):
        cohorts.compare("mlp", 2, torch.device("cpu"), 1, 1)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_what_is_compiled_leads_where_the_loop_leads(cohorts, monkeypatch, backend) -> None:
    """Here by backends that compile nothing, but see what they are to compile as the one on a GPU does."""
    made = partial(torch.compile, backend=backend)
    monkeypatch.setitem(cohorts.WAYS, "compile", lambda stack: cohorts.written_out(stack, made))
    for name in cohorts.models():
        torch.compiler.reset()
        assert "compile" in {row["way"] for row in cohorts.compare(name, 2, torch.device("cpu"), 1, 1)}


def test_a_way_that_fails_is_told_and_left_out(cohorts, monkeypatch, capsys) -> None:
    def wrong(stack):
        raise RuntimeError("no such graph\nand more")

    monkeypatch.setitem(cohorts.WAYS, "graph", wrong)
    assert "graph" not in {row["way"] for row in cohorts.compare("mlp", 2, torch.device("cpu"), 1, 1)}
    assert capsys.readouterr().out == "graph, 2 clients: no such graph\n"
