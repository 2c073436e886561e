"""What holds for every op of the table; `python -m fedsim_kernels.laws` prints what does not, as JSON.

Without a GPU it takes Triton's interpreter, TRITON_INTERPRET=1, and CPU tensors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fedsim_kernels import OPS
from fedsim_kernels.language import triton
from fedsim_kernels.op import Inputs, Op

SHAPES = ((1, 1), (0, 3), (3, 0), (1, 7), (4, 1024), (5, 1025), (3, 2311), (19, 33))
"""Rows, and numbers in each."""


def equals_the_reference(op: Op, device: str) -> None:
    """In float64, on odd shapes, none and one."""
    for shape in SHAPES:
        given = _given(op, shape, device)
        _agree(op, shape, op.pick(**given), given)


def whatever_the_strides(op: Op, device: str) -> None:
    """As well; and nothing is read or written that lies between or beyond the numbers."""
    for layout in (_spread, _transposed):
        for shape in SHAPES:
            around: list[tuple[Tensor, Tensor]] = []
            given = {name: layout(value, around) if isinstance(value, Tensor) else value
                     for name, value in _given(op, shape, device).items()}  # fmt: skip
            _agree(op, shape, op.pick(**given), given)
            for view, memory in around:
                view.fill_(_poison(view.dtype))
                assert bool((memory.isnan() if memory.is_floating_point() else memory == _poison(memory.dtype)).all())


def writes_into_its_results_alone(op: Op, device: str) -> None:
    """And into nothing that lies before or after what it allocates."""
    for shape in SHAPES:
        given = _given(op, shape, device)
        with Fenced() as fenced:
            op.pick(**given)
        for fence in fenced.fences:
            assert torch.equal(fence, fence.new_full(fence.shape, FENCE)), f"{shape}: something beyond was written to"


def whatever_the_block(op: Op, device: str) -> None:
    """Where there are more blocks of numbers than numbers in a block."""
    modules = {sys.modules[each.pick.__module__] for each in OPS.values()}  # as an op may run another's kernel
    with ExitStack() as patched:
        for module in modules:
            if hasattr(module, "BLOCK"):
                patched.enter_context(patch.object(module, "BLOCK", 32))
        given = _given(op, (4, 1100), device)
        _agree(op, (4, 1100), op.pick(**given), given)


def what_is_not_finite_spreads_alike(op: Op, device: str) -> None:
    """A NaN or an infinity in any matrix is not lost, nor gets further than in the reference."""
    names = [name for name, value in _given(op, (3, 7), device).items() if _matrix(value)]
    for name, wrong in product(names, (torch.nan, torch.inf)):
        given, exact = (_given(op, (3, 1027), device, dtype) for dtype in (torch.float32, torch.float64))
        for arguments in (given, exact):
            arguments[name][1, ..., -2] = wrong
        _close(op, (name, wrong), _leaves((op.pick(**given), given)), _leaves((op.reference(**exact), exact)))


def gradients_are_the_references(op: Op, device: str) -> None:
    """Of every argument that gradients flow to."""
    for shape in filter(all, SHAPES):
        found = _gradients(op, op.pick, _given(op, shape, device))
        expected = _gradients(op, op.reference, _given(op, shape, device, torch.float64))
        _close(op, shape, found, expected)


def repeats_to_the_bit(op: Op, device: str) -> None:
    """Whoever runs it again."""
    for shape in SHAPES:
        first, *others = ((op.pick(**given), given) for given in (_given(op, shape, device) for _ in range(3)))
        for other in others:
            assert all(map(torch.equal, _leaves(first), _leaves(other))), f"another run of {shape} differs"


def rows_do_not_meet(op: Op, device: str) -> None:
    """A stack's rows, each alone, are the same to the bit."""
    for shape in SHAPES:
        stack = _given(op, shape, device)
        alone = [_given(op, shape, device) for _ in range(shape[0])]
        result = op.pick(**stack)
        for k, given in enumerate(alone):
            own = {name: value[k : k + 1] if name in op.rowwise else value for name, value in given.items()}
            found = _leaves((op.pick(**own), [own[name] for name in op.rowwise]))
            expected = [leaf[k : k + 1] for leaf in _leaves((result, [stack[name] for name in op.rowwise]))]
            assert all(map(torch.equal, found, expected)), f"row {k} of {shape} alone differs"


def the_kernel_is_what_runs(op: Op, device: str) -> None:
    """And not the reference: Triton launches something."""
    assert triton is not None, "Triton is not installed"
    place, launch = triton.runtime.jit.KernelInterface, triton.runtime.jit.KernelInterface.__getitem__
    module = sys.modules[op.pick.__module__]
    with patch.object(module, "reference", side_effect=AssertionError("the reference ran")):
        with patch.object(place, "__getitem__", autospec=True, side_effect=launch) as launched:
            op.pick(**_given(op, (3, 7), device))
        assert launched.called, "nothing was launched"


Law = Callable[[Op, str], None]
LAWS: tuple[Law, ...] = (
    equals_the_reference,
    whatever_the_strides,
    writes_into_its_results_alone,
    whatever_the_block,
    what_is_not_finite_spreads_alike,
    gradients_are_the_references,
    repeats_to_the_bit,
    rows_do_not_meet,
    the_kernel_is_what_runs,
)


def laws_of(op: Op) -> dict[str, Law]:
    """Those that say something of an op, by name."""
    idle: dict[Law, bool] = {
        gradients_are_the_references: not op.differentiable,
        rows_do_not_meet: not op.rowwise,
    }
    return {law.__name__: law for law in LAWS if not idle.get(law)}


def broken(op: Op, device: str) -> dict[str, str]:
    """The laws that an op breaks on this device, and how; what it allocates is full of NaN at first."""
    found = {}
    for name, law in laws_of(op).items():
        try:
            with _poisoned(), np.errstate(all="ignore"):  # what is not finite is asked for
                law(op, device)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


FENCE = 113
"""What lies around fresh memory, byte by byte."""
FRESH = {"aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided", "aten::zeros", "aten::new_zeros",
         "aten::zeros_like"}  # fmt: skip


class Fenced(TorchDispatchMode):
    """Fresh memory lies between bytes that are known."""

    def __init__(self, width: int = 4096) -> None:
        """`width` bytes on each side, which keeps numbers where hardware wants them."""
        super().__init__()
        self.width = width
        self.fences: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See `TorchDispatchMode`."""
        found = func(*args, **(kwargs or {}))
        if func._schema.name not in FRESH or not found.numel():
            return found
        memory = torch.full((found.nbytes + 2 * self.width,), FENCE, dtype=torch.uint8, device=found.device)
        self.fences += [memory[: self.width], memory[-self.width :]]
        within = memory[self.width : -self.width].view(found.dtype)
        return within.as_strided(found.shape, found.stride(), within.storage_offset()).copy_(found)


@contextmanager
def _poisoned() -> Iterator[None]:
    """Fresh memory is NaN: torch fills it where algorithms have to be deterministic."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert bool(torch.empty(3).isnan().all())
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _given(op: Op, shape: tuple[int, int], device: str, dtype: torch.dtype = torch.float32) -> Inputs:
    """Fresh arguments, the same every time; floats in this type."""
    made = op.inputs(*shape, Generator().manual_seed(1 + shape[0] + shape[1]))
    kinds = {torch.float32: dtype}
    return {name: value.to(device, kinds.get(value.dtype, value.dtype)) if isinstance(value, Tensor) else value
            for name, value in made.items()}  # fmt: skip


def _agree(op: Op, shape: tuple[int, int], result: Any, given: Inputs) -> None:
    """What came out, and what the arguments are now, with the reference in float64."""
    exact = _given(op, shape, next(_tensors(given)).device.type, torch.float64)
    expected = op.reference(**exact)
    _close(op, shape, _leaves((result, given)), _leaves((expected, exact)))


def _close(op: Op, case: object, found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape, f"{case}: {tuple(one.shape)} instead of {tuple(other.shape)}"
        torch.testing.assert_close(one.to(other.dtype), other, rtol=op.tolerance, atol=op.tolerance, equal_nan=True,
                                   msg=lambda why: f"{case}: {why}")  # fmt: skip


def _gradients(op: Op, function: Callable[..., Any], given: Inputs) -> list[Tensor]:
    """Of all that has any, along a direction that is the same for both."""
    for name in op.differentiable:
        given[name].requires_grad_()
    result = torch.cat([leaf.flatten() for leaf in _leaves(function(**given)) if leaf.requires_grad])
    along = torch.linspace(-1, 2, result.numel()).to(result)
    return list(torch.autograd.grad(result, [given[name] for name in op.differentiable], along))


def _poison(dtype: torch.dtype) -> float:
    return torch.nan if dtype.is_floating_point else 1 if dtype is torch.bool else torch.iinfo(dtype).max


def _spread(value: Tensor, around: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Every second number of longer rows, and more rows."""
    memory = value.new_full([2 * long + 3 for long in value.shape], _poison(value.dtype))
    return _placed(value, memory[tuple(slice(1, 2 * long + 1, 2) for long in value.shape)], memory, around)


def _transposed(value: Tensor, around: list[tuple[Tensor, Tensor]]) -> Tensor:
    """With the first axis innermost."""
    memory = value.new_full([long + 2 for long in value.shape[::-1]], _poison(value.dtype))
    view = memory[tuple(slice(1, long + 1) for long in value.shape[::-1])]
    return _placed(value, view.permute(*range(value.dim())[::-1]), memory, around)


def _placed(value: Tensor, view: Tensor, memory: Tensor, around: list[tuple[Tensor, Tensor]]) -> Tensor:
    around.append((view, memory))
    return view.copy_(value)


def _matrix(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 1 and value.is_floating_point()


def _leaves(values: Any) -> list[Tensor]:
    return list(_tensors(values))


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict | list | tuple):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _tensors(value)


if __name__ == "__main__":
    place = "cuda" if torch.cuda.is_available() else "cpu"
    json.dump({name: broken(op, place) for name, op in OPS.items() if name in sys.argv[1:] or not sys.argv[1:]},
              sys.stdout)  # fmt: skip
