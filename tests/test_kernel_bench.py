"""The kernels' benchmark: it times no wrong op, and says what its figures are worth."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from math import isnan, nan
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from fedsim_kernels import OPS
from loading import loaded

BENCH = Path(__file__).parent.parent / "kernels" / "bench.py"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install 'fedsim-lab[kernels]'"
)


def benched(path: list[Path], *arguments: str) -> tuple[int, list[str]]:
    """Exit code and lines; modules are looked for in these folders too. As if there were no GPU."""
    places = os.pathsep.join(map(str, [BENCH.parent, *path]))
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
                   "TRITON_INTERPRET": "1"}  # fmt: skip
    done = subprocess.run([sys.executable, str(BENCH), *arguments], env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


@needs_triton
def test_it_checks_and_times_nothing_without_a_gpu(tmp_path) -> None:
    code, lines = benched([], str(tmp_path), "sgd", "pgd_linf")
    assert [line.split() for line in lines[:-1]] == [["sgd", "holds"], ["pgd_linf", "holds"]]
    assert lines[-1] == "there is no GPU: nothing is timed"
    assert code == 0
    assert not list(tmp_path.iterdir())


@needs_triton
def test_it_names_a_wrong_op_and_leaves_it_out(tmp_path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from dataclasses import replace\n"
        "from fedsim_kernels import OPS\n"
        "OPS['sgd'] = replace(OPS['sgd'], tolerance=0.0)\n"
    )
    code, lines = benched([tmp_path], str(tmp_path / "figures"), "sgd")
    assert lines[0].split()[:3] == ["sgd", "breaks", "equals_the_reference:"]
    assert code == 1
    assert not (tmp_path / "figures").exists()


@pytest.fixture
def bench(monkeypatch) -> ModuleType:
    """Ops are tried on few numbers, on a card that is not there."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    module = loaded(BENCH, monkeypatch)
    monkeypatch.setattr(module, "given", lambda op: op.inputs(3, 4096, torch.Generator().manual_seed(0)))
    monkeypatch.setattr(module, "ceilings", lambda: {"bytes": 1e12, "torch.float32": 1e13, "torch.float64": 1e12})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "pretended")
    return module


def test_rows_say_what_limits_an_op_and_how_near_to_that_it_is(bench, monkeypatch, tmp_path) -> None:
    own, compiled = {OPS["stacked_layer"].kernel, OPS["sgd"].kernel}, object()
    slow = {OPS["sgd"].rival.run: 4e-3, compiled: 3e-3}
    monkeypatch.setattr(torch, "compile", lambda reference: compiled)
    monkeypatch.setattr(bench, "seconds", lambda way, _: 1e-3 if way in own else slow.get(way, 2e-3))
    bench.timed(["sgd", "stacked_layer"], tmp_path)
    table = pd.read_csv(tmp_path / "kernels.csv", index_col="op")
    sgd = OPS["sgd"].moved(**bench.given(OPS["sgd"]))
    assert table.loc["sgd", ["limit", "verdict"]].tolist() == ["bytes", "PASS"]
    assert table.loc["sgd", "fraction"] == pytest.approx(sgd / 1e12 / 1e-3)
    assert table.loc["sgd", ["times_eager", "times_compiled", "times_rival"]].tolist() == pytest.approx([2, 3, 4])
    flops = 2 * 3 * 32 * 256 * 4096
    assert table.loc["stacked_layer", ["limit", "flops"]].tolist() == ["flops", flops]
    assert table.loc["stacked_layer", "fraction"] == pytest.approx(flops / 1e13 / 1e-3)
    assert (tmp_path / "kernels.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "changed", "expected"),
    [
        ("adamw", {}, "PASS"),
        ("adamw", {"fraction": 0.79}, "FAIL"),
        ("adamw", {"times_compiled": 0.99}, "FAIL"),
        ("adamw", {"times_compiled": nan}, "INCONCLUSIVE"),
        ("adamw", {"bytes": 9e7, "fraction": 0.1}, ""),
        ("adamw", {"limit": "flops", "fraction": 0.1}, ""),
        ("hadamard", {"fraction": 0.71}, "PASS"),
        ("hadamard", {"fraction": 0.69}, "FAIL"),
        ("sgd", {"times_rival": 3.0}, "PASS"),
        ("sgd", {"times_rival": 2.9}, "FAIL"),
        ("sgd", {"times_rival": nan}, "INCONCLUSIVE"),
    ],
)
def test_a_verdict_is_by_bounds_that_were_written_down(bench, name, changed, expected) -> None:
    found = {"limit": "bytes", "bytes": 2e8, "fraction": 0.8, "times_compiled": 1.0, "times_rival": nan}
    assert bench.verdict({**found, **changed}, OPS[name]) == expected


def test_what_does_not_fit_or_compile_has_no_time(bench, monkeypatch, capsys) -> None:
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTry less")

    monkeypatch.setattr(bench, "seconds", full)
    assert isnan(bench.others(print, {}))
    assert capsys.readouterr().out == "OutOfMemoryError: CUDA out of memory.\n"


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.rival])
def test_a_rival_does_the_same(name) -> None:
    op = OPS[name]
    exact, found = (op.inputs(3, 500, torch.Generator().manual_seed(1)) for _ in range(2))
    for arguments in (exact, found):
        arguments.get("chosen", torch.ones(1)).fill_(1)  # as dense attention sees everything
    expected = op.reference(**exact), exact
    torch.testing.assert_close((op.rival.run(**found), found), expected)
