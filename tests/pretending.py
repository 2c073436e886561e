"""A GPU that is not there: tensors that say they are on it are computed on the CPU, and refuse what a GPU refuses.

What is refused: an operation on tensors of both places (but for CPU numbers in tensors (), CPU indices, and copies),
a CPU generator's draws on the device, and reading a device's tensor as a numpy array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
ELSEWHERE = {"copy_", "_to_copy"}
"""Operations that go from one place to the other."""
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_masked_index"}
"""These take indices from the CPU."""
TOGETHER = {"cat", "stack"}
"""These want even single numbers in one place."""


class Elsewhere:
    """Which memory is on the device: known by storage, so that views are where their base is."""

    def __init__(self) -> None:
        self.storages: dict[int, StorageWeakRef] = {}
        """By address. A weak reference keeps the address from being used again."""
        self.ambient = False
        """Whether what is made of nothing is made there, as inside an operation on the device."""

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is there, in whatever wrapper of torch.func."""
        tensor = bare(tensor)
        return tensor.layout is torch.strided and tensor.untyped_storage()._cdata in self.storages

    def put(self, tensor: Tensor, there: bool) -> Tensor:
        """The tensor, whose memory is there from now on, or here."""
        storage = bare(tensor).untyped_storage()
        if there:
            self.storages[storage._cdata] = StorageWeakRef(storage)
        else:
            self.storages.pop(storage._cdata, None)
        if len(self.storages) % 4096 == 4095:
            self.storages = {key: ref for key, ref in self.storages.items() if not ref.expired()}
        return tensor


class Operations(TorchDispatchMode):
    """Refuses operations on tensors of both places; results are where the arguments are."""

    def __init__(self, gpu: Elsewhere) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and real(leaf)]
        there = any(map(self.gpu.holds, given))
        name = func.overloadpacket.__name__
        if there and name not in ELSEWHERE:
            self.refuse(name, args, given)
            if any(isinstance(leaf, Generator) for leaf in tree_leaves((args, kwargs))):
                raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({name})")
        found = func(*args, **kwargs)
        if (there and name != "copy_") or (not given and self.gpu.ambient):
            tree_map(lambda leaf: self.gpu.put(leaf, True) if isinstance(leaf, Tensor) and real(leaf) else leaf, found)
        return found

    def refuse(self, name: str, args: Any, given: list[Tensor]) -> None:
        indices = args[1] if name in INDEXED and self.gpu.holds(args[0]) else ()
        free = {id(index) for index in indices}
        strays = [each for each in given if not self.gpu.holds(each) and (each.dim() or name in TOGETHER)]
        if [each for each in strays if id(each) not in free]:
            raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, {GPU} "
                               f"and cpu! ({name} of {[tuple(each.shape) for each in given]})")  # fmt: skip


class Words(TorchFunctionMode):
    """Answers what a program asks of places, and asks of tensors' ways between them."""

    def __init__(self, gpu: Elsewhere) -> None:
        super().__init__()
        self.gpu = gpu
        self.answers: Mapping[str, Callable[..., Any]] = {
            "device": lambda tensor: GPU, "is_cuda": lambda tensor: False, "is_cpu": lambda tensor: False,
        }  # fmt: skip

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        if name == "__get__":
            there = attribute in self.answers and real(args[0]) and self.gpu.holds(args[0])
            return self.answers[attribute](args[0]) if there else func(*args, **kwargs)
        if name == "__set__" and attribute == "grad" and isinstance(args[1], Tensor):
            self.alike(args)
        if name == "_parse_to":  # only reads what is asked of a module
            return func(*args, **kwargs)
        if name in ("numpy", "__array__") and self.gpu.holds(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        return self.moved(name, func, args, kwargs)

    def alike(self, args: Any) -> None:
        if self.gpu.holds(args[0]) != self.gpu.holds(args[1]):
            raise RuntimeError("assigned grad has data located on a different device")

    def moved(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """What a function yields, at the place that it was asked for."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and real(leaf)]
        asked = [leaf for leaf in (*args, kwargs.get("device")) if place(leaf) is not None]
        there = any(map(self.gpu.holds, given))
        if asked:
            there = place(asked[-1]) == "cuda"
        elif name in ("to", "cpu"):
            there = name == "to" and self.gpu.holds(args[1] if isinstance(args[1], Tensor) else args[0])
        if asked and there and kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        args, kwargs = tree_map(lambda leaf: torch.device("cpu") if place(leaf) == "cuda" else leaf, (args, kwargs))
        before, self.gpu.ambient = self.gpu.ambient, self.gpu.ambient or there
        try:
            found = func(*args, **kwargs)
        finally:
            self.gpu.ambient = before
        travels = name in ("to", "cpu", "new_tensor") or asked
        return self.at(found, there, given) if travels and isinstance(found, Tensor) and real(found) else found

    def at(self, found: Tensor, there: bool, given: list[Tensor]) -> Tensor:
        if self.gpu.holds(found) == there:
            return found
        shared = {bare(each).untyped_storage()._cdata for each in given}
        return self.gpu.put(found.clone() if bare(found).untyped_storage()._cdata in shared else found, there)


def bare(tensor: Tensor) -> Tensor:
    """Without the wrappers of torch.func."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def real(tensor: Tensor) -> bool:
    """Whether there are numbers."""
    return tensor.device.type != "meta"


def place(leaf: object) -> str | None:
    """The kind of device that an argument names, if it names one."""
    if isinstance(leaf, str) and leaf.split(":")[0] in ("cpu", "cuda"):
        return leaf.split(":")[0]
    return leaf.type if isinstance(leaf, torch.device) and leaf.type in ("cpu", "cuda") else None


@contextmanager
def pretending() -> Iterator[Elsewhere]:
    """There is a GPU meanwhile."""
    gpu = Elsewhere()
    with Operations(gpu), Words(gpu):
        yield gpu
