"""Whole runs take the kernels where these run, here in Triton's interpreter, and are the same runs but for rounding."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from fedsim_kernels import OPS
from fedsim_kernels.language import noted, picked
from small import scenario, write_text

import fedsim
from fedsim import experiment
from fedsim.aggregators.memory import Memory
from fedsim.conduct import conduct
from fedsim.optimizers.step import step
from fedsim.scenario import read

TESTS = Path(__file__).parent
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install 'fedsim-lab[kernels]'"
)
DENSE = {"stacked_layer", "stacked_slopes", "stacked_gradients"}
LOCAL = {*DENSE, "sgd"}
MEAN = {*LOCAL, "weighted_sum"}
TAKEN = {
    "server fedstale": {*LOCAL, "fedstale"},
    "server fetchsgd": {*MEAN, "count_table", "count_estimate"},
    "optimizer sgd": {*DENSE, "momentum", "weighted_sum"},
    "optimizer adamw": {*DENSE, "adamw", "weighted_sum"},
    "frugal columns": {*DENSE, "frugal", "weighted_sum"},
    "codec srht": {*MEAN, "srht", "srht_lift"},
    "codec countsketch": {*MEAN, "count_table"},
    "codec eden": {*MEAN, "hadamard"},
    "codec qsgd": {*MEAN, "quantise", "dequantise"},
    "codec top_k": {*MEAN, "top_k"},
    "coding gc": {*MEAN, "combinations"},
    "defence krum": {*LOCAL, "distances"},
    "adversarial in l2": {*MEAN, "pgd"},
    "eggroll": {"low_rank_product", "adamw", "weighted_sum"},
    "transformer": {"aligned_attention", "sgd", "weighted_sum"},
}
"""Small scenarios, and the kernels that their runs take."""
IDLE = {"clip_and_noise", "dropout", "median", "sparse_attention", "trimmed_mean"}
"""Ops that no run takes: see the README."""


def run(name: str, folder: Path) -> fedsim.Run:
    [arm] = read(scenario(name))
    return conduct(experiment.assemble(arm, folder), folder / "runs" / name.replace(" ", "_"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    write_text(folder)
    return folder


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory) -> Path:
    """A folder with runs that kernels have computed, in a process of its own, which knows of the interpreter."""
    folder = tmp_path_factory.mktemp("interpreted")
    write_text(folder)
    code = "from test_kernels_in_runs import *\nfor name in TAKEN: run(name, Path(sys.argv[1]))"
    child(code, str(folder), TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    return folder / "runs"


def child(code: str, *arguments: str, **environment: str) -> str:
    """What Python prints."""
    path = os.pathsep.join(map(str, (TESTS, TESTS.parent, TESTS.parent / "kernels")))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_triton
@pytest.mark.parametrize("name", TAKEN)
def test_the_same_run_by_kernels(name, plain, interpreted) -> None:
    """The same timeline and draws; metrics and weights as near as float32 is."""
    own, other = run(name, plain), fedsim.load(interpreted / name.replace(" ", "_"))
    assert other.receipt["kernels"] == sorted(TAKEN[name])
    assert own.receipt["trace"] == other.receipt["trace"]
    assert own.receipt["scenario"] == other.receipt["scenario"]
    np.testing.assert_allclose(own.metrics.to_numpy(float), other.metrics.to_numpy(float), rtol=1e-5, atol=1e-6)
    for key, weights in own.weights.items():
        np.testing.assert_allclose(weights, other.weights[key], rtol=1e-4, atol=1e-6)


def test_without_kernels_the_receipt_names_none(tmp_path) -> None:
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("kernels run here")
    assert run("codec srht", tmp_path).receipt["kernels"] == []


def test_every_op_is_taken_by_a_run_or_named_idle() -> None:
    modules = {op.pick.__module__.rpartition(".")[2] for op in OPS.values()}
    assert set().union(*TAKEN.values()) == modules - IDLE


def test_without_triton_runs_are_what_they_were(plain, tmp_path) -> None:
    code = "import sys; sys.modules['triton'] = None; from test_kernels_in_runs import *"
    code += "\nrun('codec eden', Path(sys.argv[1]))"
    child(code, str(tmp_path))
    found, own = fedsim.load(tmp_path / "runs" / "codec_eden"), run("codec eden", plain)
    assert found.receipt["digests"]["model.safetensors"] == own.receipt["digests"]["model.safetensors"]
    assert found.receipt["kernels"] == []


@needs_triton
def test_a_stack_of_transformers_takes_the_kernel_for_first_derivatives() -> None:
    code = """
import torch
from unittest.mock import patch
from fedsim.gradients.vmapped import Vmapped
from fedsim.models.transformer import transformer
from fedsim.objectives.sparse_attention import NextCharacters, lessons
from fedsim_kernels.language import noted

def drawn(shape, seed):
    return torch.randint(7, shape, generator=torch.Generator().manual_seed(seed))

source = Vmapped(transformer((9,), 7, 7, width=6, layers=2, heads=2, block=3, blocks=2))
params = {name: torch.randn(3, *each.shape, generator=torch.Generator().manual_seed(1)) * 0.3
          for name, each in source.module.named_parameters()}
batch = lessons(drawn((3, 4, 9), 2), drawn((3, 4), 3), drawn((3, 1), 4) % 2)
calls = {"slopes": lambda: source(params, *batch, NextCharacters(10.0))[0],
         "curvature": lambda: source.hvp(params, *batch, params, NextCharacters(10.0))}
for name, call in calls.items():
    with noted() as names:
        found = call()
    print(name, *names)
    with patch("fedsim.models.attention.launches", return_value=False):
        plain = call()
    for key in plain:
        torch.testing.assert_close(found[key], plain[key], rtol=1e-4, atol=1e-6)
"""
    said = child(code, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    assert said.splitlines() == ["slopes aligned_attention", "curvature"]


@needs_triton
def test_a_stack_of_dense_networks_takes_the_kernels_forward_and_backward() -> None:
    """And all that it says is what autograd says of each client alone."""
    code = """
import torch
from fedsim.gradients import ClosedForm, Single
from fedsim.models import mlp
from fedsim_kernels.language import noted
from torch.utils._pytree import tree_map

draw = torch.Generator().manual_seed(7)
stack, alone = ClosedForm(module := mlp((6,), 5, [7, 33])), Single(module)
params, along = ({name: torch.randn(3, *each.shape, generator=draw) for name, each in module.named_parameters()}
                 for _ in range(2))
x, y = torch.randn(3, 9, 6, generator=draw), torch.randint(5, (3, 9), generator=draw)
calls = {
    "gradients": lambda source, params, x, y, along: source(params, x, y),
    "of inputs": lambda source, params, x, y, along: source.of_inputs(params, x, y),
    "scores": lambda source, params, x, y, along: source.scores(params, x),
    "curvature": lambda source, params, x, y, along: source.hvp(params, x, y, along),
}

for name, call in calls.items():
    with noted() as names:
        found = call(stack, params, x, y, along)
    print(name, *sorted(names))
    for k in range(3):
        *own, said = tree_map(lambda part: part[k : k + 1], (params, x, y, along, found))
        torch.testing.assert_close(said, call(alone, *own), rtol=1e-4, atol=1e-5)
"""
    said = child(code, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="").splitlines()
    assert said == [
        "gradients stacked_gradients stacked_layer stacked_slopes",
        "of inputs stacked_layer stacked_slopes",
        "scores stacked_layer",
        "curvature stacked_gradients stacked_layer stacked_slopes",
    ]


def test_only_those_who_listen_are_told() -> None:
    def kernel() -> None: ...

    kernel.__module__, nothing = "fedsim_kernels.some_op", torch.ones(1)
    with noted() as outer:
        picked(kernel, kernel, nothing)
    assert not outer
    code = """
import torch
from fedsim_kernels.language import noted
from fedsim_kernels.median import median
with noted() as outer:
    with noted() as inner: median(torch.ones(2, 3))
    with noted() as idle: median(torch.ones(2, 3).double())
median(torch.ones(2, 3))
print(sorted(outer), sorted(inner), sorted(idle))
"""
    if importlib.util.find_spec("triton"):
        assert child(code, TRITON_INTERPRET="1") == "['median'] ['median'] []\n"


STEPS = {
    "sgd": "torch.optim.SGD(params, 0.1, weight_decay=0.01)",
    "momentum": "torch.optim.SGD(params, 0.1, momentum=0.9, weight_decay=0.01)",
    "nesterov": "torch.optim.SGD(params, 0.1, momentum=0.9, nesterov=True)",
    "adamw": "torch.optim.AdamW(params, 0.1)",
    "adam": "torch.optim.Adam(params, 0.1)",
    "decayed adam": "torch.optim.Adam(params, 0.1, weight_decay=0.1)",
    "amsgrad": "torch.optim.AdamW(params, 0.1, amsgrad=True)",
    "dampened": "torch.optim.SGD(params, 0.1, momentum=0.9, dampening=0.5)",
    "uphill": "torch.optim.SGD(params, 0.1, maximize=True)",
    "adagrad": "torch.optim.Adagrad(params, 0.1)",
}
OWN = {"decayed adam", "amsgrad", "dampened", "uphill", "adagrad"}
"""Rules that no kernel has."""


def steps(taken) -> dict[str, list]:
    """Where three steps of each rule lead matrices of three clients, and vectors of one."""
    found = {}
    for name, rule in STEPS.items():
        draw = torch.Generator().manual_seed(5)
        params = [torch.randn(*shape, generator=draw) for shape in ((3, 4, 5), (3, 7), (6,), (3, 2, 0))]
        optimizer = eval(rule, {"torch": torch, "params": params})
        with noted() as names:
            for _ in range(3):
                for tensor in params:
                    tensor.grad = torch.randn(tensor.shape, generator=draw)
                taken(optimizer)
        memory = [value.flatten().tolist() for tensor in params for value in optimizer.state[tensor].values()
                  if isinstance(value, torch.Tensor)]  # fmt: skip
        found[name] = [sorted(names), [tensor.flatten().tolist() for tensor in params], memory]
    return found


@needs_triton
def test_a_step_by_a_kernel_is_torchs() -> None:
    """And leaves the same behind; what no kernel does is torch's own."""
    expected = steps(lambda optimizer: optimizer.step())
    code = "from test_kernels_in_runs import *\nprint(json.dumps(steps(step)))"
    for name, (names, *numbers) in json.loads(child(code, TRITON_INTERPRET="1")).items():
        assert (not names) == (name in OWN)
        for found, known in zip(numbers, expected[name][1:], strict=True):
            np.testing.assert_allclose(list(chain(*found)), list(chain(*known)), rtol=1e-5, atol=1e-6)


def test_a_step_without_kernels_is_torchs_to_the_bit() -> None:
    assert steps(step) == steps(lambda optimizer: optimizer.step())


def rounds(direction) -> tuple[list[list[float]], Memory]:
    """Three directions of a memory's clients, some of whom come back; what is remembered in the end."""
    draw, memory, found = torch.Generator().manual_seed(6), Memory(torch.zeros(5)), []
    for names in ([0, 3, 1, 4], [1, 0], [4, 2, 3]):
        news = {name: torch.randn(5, generator=draw) for name in names}
        weights, importances = [2.0 + name for name in names], [0.1 + 0.1 * name for name in names]
        found.append(direction(memory, news, weights, importances, 0.7).tolist())
    return found, memory


def plainly(memory, news, weights, importances, beta) -> torch.Tensor:
    """As FedStale does it without kernels."""
    total = beta * memory.sum
    for (client, delta), weight in zip(news.items(), weights, strict=True):
        total.add_(delta - beta * memory[client].double(), alpha=weight)
    for (client, delta), importance in zip(news.items(), importances, strict=True):
        memory.remember(client, delta, importance)
    return total


@pytest.mark.parametrize("nbytes", [2**24, 40])
def test_fedstales_kernel_goes_block_by_block(nbytes, monkeypatch) -> None:
    monkeypatch.setattr("fedsim.aggregators.memory.BLOCK_BYTES", nbytes)
    (found, memory), (expected, other) = rounds(Memory.stale), rounds(plainly)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(memory.sum, other.sum, rtol=1e-5, atol=1e-6)
    assert all(memory[client].equal(other[client]) for client in range(5))
