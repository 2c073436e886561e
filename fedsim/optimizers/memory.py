"""What an optimizer remembers of each client (momentum, moments, counts of steps), from one training to the next."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fedsim.optimizers.addressed import Addressed
from fedsim.vector import Layout
from fedsim.work import LocalTask

Memory = Mapping[str, Any]
"""Of one client, by the rule's own names: flat vectors (P,), and numbers, which torch keeps in tensors ().

What a rule has in shapes of its own (`Addressed.own`) is named `name/parameter`.
"""


def likeness(memory: Memory) -> Hashable:
    """What clients have to have in common to be one stack: the vectors that there are, and the numbers themselves.

    A rule that counts its steps, as Adam does, has one count for all of a stack. What a rule has in shapes of its own
    has to have the same shapes.
    """
    return tuple((name, _kind(name, value)) for name, value in memory.items())


class StackMemory:
    """The memory of a stack's optimizer, put in and taken out by client."""

    def __init__(self, optimizer: Optimizer, params: Mapping[str, Tensor], layout: Layout) -> None:
        """`params` are what the optimizer moves, by name: (K, *shape), or (*shape) of one client."""
        self.optimizer, self.params, self.layout = optimizer, params, layout
        self.own = optimizer.own if isinstance(optimizer, Addressed) else ()

    def recall(self, memories: Sequence[Memory]) -> None:
        """Let a fresh optimizer go on from its K clients' memories, which are alike. It gets copies."""
        for key, value in memories[0].items():
            if "/" in key:
                self._recall_own(key, [memory[key] for memory in memories])
                continue
            rows = [self.layout.unflatten(memory[key]) for memory in memories] if _is_vector(value) else []
            for name, tensor in self.params.items():
                own = torch.stack([row[name] for row in rows]).reshape(tensor.shape) if rows else _copied(value)
                self.optimizer.state[tensor][key] = own

    def _recall_own(self, key: str, rows: Sequence[Tensor]) -> None:
        """Of one parameter, in a shape of its own."""
        name, _, parameter = key.partition("/")
        tensor = self.params[parameter]
        self.optimizer.state[tensor][name] = torch.stack(list(rows)) if self._stacked(parameter) else rows[0].clone()

    def _stacked(self, parameter: str) -> bool:
        """Whether it has the axis K."""
        return self.params[parameter].dim() > len(self.layout.shapes[self.layout.names.index(parameter)])

    def of(self, clients: slice) -> list[Memory]:
        """The memories of some clients, copied.

        ValueError if there is something that is neither shaped like the parameters nor one number for all of them.
        """
        states = [self.optimizer.state[tensor] for tensor in self.params.values()]
        every = dict.fromkeys(key for state in states for key, value in state.items() if value is not None)
        alike = [key for key in every if key not in self.own]
        columns = {key: self._column(key, [state.get(key) for state in states], clients) for key in alike}
        columns |= self._apart(clients)
        rows = zip(*columns.values(), strict=True) if columns else [()] * (clients.stop - clients.start)
        return [dict(zip(columns, map(_copied, row), strict=True)) for row in rows]

    def _apart(self, clients: slice) -> dict[str, Sequence[Tensor]]:
        """What each client remembers of single parameters, in shapes of its own."""
        found = {}
        for parameter, tensor in self.params.items():
            for name in self.own:
                value = self.optimizer.state[tensor].get(name)
                if value is not None:
                    found[f"{name}/{parameter}"] = value[clients] if self._stacked(parameter) else [value]
        return found

    def _column(self, key: str, values: Sequence[Any], clients: slice) -> Sequence[Tensor | float]:
        """What each client remembers under this name; `values` are the parameters' in their order."""
        like = zip(values, self.params.values(), strict=True)
        if all(isinstance(value, Tensor) and value.shape == tensor.shape for value, tensor in like):
            whole = zip(self.layout.names, self.layout.shapes, values, strict=True)
            stacked = {name: value if value.dim() > len(shape) else value[None] for name, shape, value in whole}
            return list(self.layout.join({name: value[clients] for name, value in stacked.items()}))
        if all(_is_number(value) and float(value) == float(values[0]) for value in values):
            return [values[0]] * (clients.stop - clients.start)
        raise ValueError(f"what it remembers as {key!r} is neither like the parameters nor one number for all")


def check_memory(optimizer: Callable[[list[Tensor]], Optimizer], layout: Layout, stackable: bool) -> None:
    """Try one step. ValueError if a rule remembers more than what can be kept for each client."""
    params, rule = _begun(optimizer, layout, stackable)
    before = _settings(rule)
    rule.step()
    try:
        if _settings(rule) != before:
            raise ValueError("it changes its own settings as it goes")
        StackMemory(rule, params, layout).of(slice(0, 1))
    except ValueError as error:
        raise ValueError(f"{type(rule).__name__} has no memory that could be kept: {error}") from None


def state_bytes(optimizer: Callable[[list[Tensor]], Optimizer], layout: Layout, stackable: bool) -> int:
    """What the rule remembers of a client after its first step, in bytes: the tensors that there are."""
    _, rule = _begun(optimizer, layout, stackable)
    rule.step()
    held = [value for state in rule.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(value.numel() * value.element_size() for value in held)


def _begun(optimizer: Callable[[list[Tensor]], Optimizer], layout: Layout,
           stackable: bool) -> tuple[dict[str, Tensor], Optimizer]:  # fmt: skip
    """Parameters of one client that are zero, and a fresh optimizer that is about to step along ones."""
    lead = (1,) if stackable else ()
    params = {name: torch.zeros((*lead, *shape)) for name, shape in zip(layout.names, layout.shapes, strict=True)}
    rule = optimizer(list(params.values()))
    if isinstance(rule, Addressed):
        rule.begin([LocalTask(0, torch.zeros(0), 0, 1)], 0, stacked=stackable)
    for tensor in params.values():
        tensor.grad = torch.ones_like(tensor)
    return params, rule


def _settings(optimizer: Optimizer) -> str:
    return repr([{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups])


def _kind(name: str, value: Tensor | float) -> Hashable:
    if "/" in name:
        return tuple(torch.as_tensor(value).shape)
    return None if _is_vector(value) else float(value)


def _is_vector(value: Tensor | float) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.dim() == 0)


def _copied(value: Tensor | float) -> Tensor | float:
    return value.clone() if isinstance(value, Tensor) else value
