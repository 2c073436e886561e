"""Kernels: each equals its reference, in Triton's interpreter, or on the GPU if there is one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fedsim_kernels import OPS
from fedsim_kernels.laws import LAWS, broken

KERNELS = Path(__file__).parent.parent / "kernels"
TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not TRITON, reason="Triton is not installed: pip install 'fedsim-lab[kernels]'")


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict[str, str]]:
    """Which laws each op breaks. Triton has to know that it interprets when it is imported: in a process of its own."""
    return json.loads(ran("-m", "fedsim_kernels.laws", TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES=""))


def ran(*arguments: str, **environment: str) -> str:
    """What Python prints to that."""
    environment = {**os.environ, "PYTHONPATH": str(KERNELS), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_triton
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", OPS)
def test_law(interpreted, name, law) -> None:
    assert law not in interpreted[name], interpreted[name][law]


@pytest.mark.gpu
@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", OPS)
def test_laws_on_the_gpu(name) -> None:
    assert not broken(OPS[name], "cuda")


@pytest.mark.parametrize("name", OPS)
def test_without_triton_the_reference_is_what_runs(name) -> None:
    code = f"""
import sys; sys.modules["triton"] = None
from fedsim_kernels import OPS
from fedsim_kernels.laws import LAWS
for law in LAWS:
    if law != "the_kernel_is_what_runs":
        LAWS[law](OPS[{name!r}], "cpu")
"""
    ran("-c", code)


@needs_triton
def test_the_interpreter_is_not_chosen_by_itself() -> None:
    code = "from fedsim_kernels.language import INTERPRETED, launches; import torch; print(launches(torch.ones(1)))"
    assert ran("-c", code, TRITON_INTERPRET="0") == "False\n"


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which is timed by hand")
def test_the_benchmark_checks_and_times_nothing_without_a_gpu(tmp_path) -> None:
    lines = ran(str(KERNELS / "bench.py"), str(tmp_path)).splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(OPS)
    assert all(line.endswith("holds") for line in lines[:-1])
    assert lines[-1] == "there is no GPU: nothing is timed"
    assert not list(tmp_path.iterdir())
