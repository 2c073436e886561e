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
from fedsim_kernels.laws import broken, laws_of
from servers import SIZE, delta, roster, start, update

from fedsim.aggregators import FedStale

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
@pytest.mark.parametrize(("name", "law"), [(name, law) for name, op in OPS.items() for law in laws_of(op)])
def test_law(interpreted, name, law) -> None:
    assert law not in interpreted[name], interpreted[name][law]


@pytest.fixture(scope="module")
def uncompiled(tmp_path_factory) -> dict[str, str | None]:
    """Why the kernels of each op do not compile; nothing is taken from an earlier run."""
    cache = tmp_path_factory.mktemp("cache")
    return json.loads(ran("-m", "fedsim_kernels.compiling", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(cache)))


@needs_triton
@pytest.mark.parametrize("name", OPS)
def test_compiles_for_a_gpu_that_is_not_there(uncompiled, name) -> None:
    assert uncompiled[name] is None, uncompiled[name]


@pytest.mark.gpu
@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", OPS)
def test_laws_on_the_gpu(name) -> None:
    assert not broken(OPS[name], "cuda")


def test_without_triton_the_reference_is_what_runs() -> None:
    code = """
import sys; sys.modules["triton"] = None
from fedsim_kernels import OPS
from fedsim_kernels.laws import broken
for op in OPS.values():
    assert broken(op, "cpu") == {"the_kernel_is_what_runs": "AssertionError: the reference ran"}
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


def trained(kind, rates, frozen, start, slopes, **settings) -> torch.Tensor:
    """Where torch's own optimizer leads each client's numbers, but for the frozen ones."""
    ends = start.clone()
    for end, rate, gradients in zip(ends, rates.tolist(), slopes.unbind(1), strict=True):
        free = end[~frozen].clone().requires_grad_()
        optimizer = kind([free], lr=rate, **settings)
        for gradient in gradients:
            free.grad = gradient[~frozen].clone()
            optimizer.step()
        end[~frozen] = free.detach()
    return ends


@pytest.mark.parametrize(
    ("name", "kind", "settings", "own"),
    [
        ("sgd", torch.optim.SGD, {"weight_decay": 0.1}, {"weight_decay": 0.1}),
        ("momentum", torch.optim.SGD, {"momentum": 0.8}, {"decay": 0.8}),
        ("momentum", torch.optim.SGD, {"momentum": 0.8, "weight_decay": 0.1, "nesterov": True},
         {"decay": 0.8, "weight_decay": 0.1, "nesterov": True}),
        ("adamw", torch.optim.AdamW, {"betas": (0.8, 0.95), "weight_decay": 0.1},
         {"betas": (0.8, 0.95), "weight_decay": 0.1}),
    ],
)  # fmt: skip
def test_steps_of_a_stack_are_torchs(name, kind, settings, own) -> None:
    chance = torch.Generator().manual_seed(3)
    start, slopes = torch.randn(4, 9, generator=chance).double(), torch.randn(5, 4, 9, generator=chance).double()
    rates, frozen = torch.tensor([0.1, 0.01, 1.0, 0.0]).double(), torch.arange(9) % 4 == 1
    stack = start.clone()
    moments = [torch.zeros_like(stack) for _ in range({"sgd": 0, "momentum": 1, "adamw": 2}[name])]
    for step, gradients in enumerate(slopes, 1):
        numbered = {"step": step} if name == "adamw" else {}
        OPS[name].pick(stack, gradients, *moments, rates, frozen, **numbered, **own)
    expected = trained(kind, rates, frozen, start, slopes, **settings)
    torch.testing.assert_close(stack, expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(stack[:, frozen], start[:, frozen])
    assert all(not moment[:, frozen].any() for moment in moments)


def test_fedstale_is_the_aggregators(monkeypatch) -> None:
    aggregator, weights = FedStale(start(), roster(), beta=0.3), [0.5, 2.0, 1.25]
    monkeypatch.setattr(aggregator, "inverse_weights", lambda updates: weights[: len(updates)])
    memory, total = torch.zeros(10, SIZE), torch.zeros(SIZE, dtype=torch.float64)
    for turn, clients in enumerate(([7, 2], [2, 9, 7], [], [9])):
        fresh = [delta(turn, client) for client in clients]
        importances = torch.tensor([aggregator.importance_of(client) for client in clients], dtype=torch.float64)
        found = OPS["fedstale"].pick(
            torch.stack(fresh) if fresh else torch.zeros(0, SIZE), memory, torch.tensor(clients, dtype=torch.int64),
            torch.tensor(weights[: len(clients)], dtype=torch.float64), importances, total, beta=0.3)  # fmt: skip
        expected = aggregator.direction([update(*who) for who in zip(clients, [turn] * len(fresh), fresh, strict=True)])
        assert torch.equal(found, expected)
        torch.testing.assert_close(total, aggregator.last.sum, rtol=1e-15, atol=1e-15)
        assert all(torch.equal(memory[client], aggregator.last[client]) for client in range(10))
