"""What an object has learnt, as bytes that hold no code: tensors, and plain facts about where they belong.

An aggregator's state is saved while it runs and put back into another one that was constructed alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedsim.accelerator import CPU
from fedsim.work import ClientState, LocalResult, Update

Facts = Any
"""Plain data, in which {"tensor": name} stands for a tensor; every other mapping names the kind of its one value."""

RECORDS = {"Update": Update, "LocalResult": LocalResult, "ClientState": ClientState}
"""What is constructed anew; all other objects are filled where they stand, by their `__setstate__` if they have one."""

CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {"list": list, "tuple": tuple, "set": set, "dict": dict}


def saved(thing: object) -> bytes:
    """All that the attributes of an object hold, in safetensors' format. Reading pending updates makes them run.

    Functions and frozen objects are left out: they come from the scenario and do not change. TypeError if an attribute
    holds anything else than tensors, numbers, words, containers and objects with attributes.
    """
    tensors: dict[int, tuple[str, Tensor]] = {}
    facts = _attributes(thing, tensors)
    named = {name: tensor.detach().cpu().clone() for name, tensor in tensors.values()}
    return save(named, {"facts": json.dumps(facts)})


def restore(thing: object, data: bytes, device: torch.device = CPU) -> None:
    """Put back what `saved` has given, onto a device, into an object that was constructed alike.

    ValueError if the bytes are damaged.
    """
    try:
        tensors = {name: tensor.to(device) for name, tensor in load(data).items()}
        length = int.from_bytes(data[:8], "little")
        facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["facts"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"this is no saved state, or a damaged one: {error}") from None
    _fill(thing, facts, tensors)


def _attributes(thing: object, tensors: dict[int, tuple[str, Tensor]]) -> dict[str, Facts]:
    return {name: _packed(value, tensors) for name, value in vars(thing).items() if not _fixed(value)}


def _fixed(value: object) -> bool:
    frozen = is_dataclass(value) and value.__dataclass_params__.frozen  # type: ignore[attr-defined]
    return (frozen and type(value).__name__ not in RECORDS) or callable(value)


def _packed(value: Any, tensors: dict[int, tuple[str, Tensor]]) -> Facts:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name, _ = tensors.setdefault(id(value), (str(len(tensors)), value))
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_packed(key, tensors), _packed(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple | set):
        kind = next(name for name in CONTAINERS if isinstance(value, CONTAINERS[name]))  # type: ignore[arg-type]
        return {kind: [_packed(item, tensors) for item in value]}
    if type(value).__name__ in RECORDS:
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        if isinstance(value, Update):
            parts["numbers"] = value.numbers.result()
        return {type(value).__name__: {name: _packed(part, tensors) for name, part in parts.items()}}
    if hasattr(value, "__dict__"):
        return {"object": _attributes(value, tensors)}
    raise TypeError(f"a state cannot hold a {type(value).__name__}: {value!r}")


def _fill(thing: object, facts: dict[str, Facts], tensors: dict[str, Tensor]) -> None:
    state = {name: _unpacked(value, tensors, getattr(thing, name)) for name, value in facts.items()}
    if hasattr(thing, "__setstate__"):
        thing.__setstate__(state)  # type: ignore[attr-defined]
    else:
        vars(thing).update(state)


def _unpacked(facts: Facts, tensors: dict[str, Tensor], present: Any) -> Any:
    """What the facts say; `present` is what stands in its place now."""
    if not isinstance(facts, dict):
        return facts
    [(kind, content)] = facts.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "object":
        _fill(present, content, tensors)
        return present
    if kind in RECORDS:
        return RECORDS[kind](**{name: _unpacked(part, tensors, None) for name, part in content.items()})
    if kind == "dict":
        return {_unpacked(key, tensors, None): _unpacked(item, tensors, None) for key, item in content}
    return CONTAINERS[kind]([_unpacked(item, tensors, None) for item in content])
