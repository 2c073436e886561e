"""What objects have learnt, as facts that hold no code: tensors, and plain data about where they belong.

The state of an object, or of a whole simulation, is taken while it runs and put back into one that was constructed
alike. Of an object that mostly stands still, `changing` names the attributes that do not; of all others everything
counts but functions and frozen objects, which come from the scenario.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedsim.accelerator import CPU
from fedsim.wire.codec import Draw
from fedsim.work import (
    ClientState,
    CodedTask,
    Deferred,
    Kept,
    Letter,
    LocalResult,
    LocalTask,
    Measured,
    Release,
    Update,
)

Facts = Any
"""Plain data, in which {"tensor": name} stands for a tensor; every other mapping names the kind of its one value."""

RECORDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Update,
        LocalResult,
        ClientState,
        LocalTask,
        CodedTask,
        Measured,
        Draw,
        Deferred,
        Kept,
        Release,
        Letter,
    )
}
"""What is made anew, once for all who refer to it; all other objects are filled where they stand, by their
`__setstate__` if they have one."""

CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {"list": list, "tuple": tuple, "set": set, "dict": dict}


def saved(thing: object) -> bytes:
    """The state of an object, in safetensors' format. Reading pending updates makes them run.

    TypeError if an attribute holds anything else than tensors, numbers, words, containers and objects with attributes.
    """
    packing = Packing(settled=True)
    facts = {"state": packing.attributes(thing), "records": packing.records()}
    named = {name: torch.from_numpy(array.copy()) for name, array in packing.arrays.items()}
    return save(named, {"facts": json.dumps(facts)})


def restore(thing: object, data: bytes, device: torch.device = CPU) -> None:
    """Put back what `saved` has given, onto a device, into an object that was constructed alike.

    ValueError if the bytes are damaged.
    """
    try:
        tensors = load(data)
        length = int.from_bytes(data[:8], "little")
        facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["facts"])
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"this is no saved state, or a damaged one: {error}") from None
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    unpacking = Unpacking(arrays, facts["records"], device=device)
    unpacking.fill(thing, facts["state"])


class Packing:
    """Turns objects into facts, and keeps the tensors apart: each once, whoever holds it.

    Args:
        settled: let what is pending run; else it stays so.
    """

    def __init__(self, settled: bool = False) -> None:
        self.settled = settled
        self.arrays: dict[str, np.ndarray] = {}
        """Tensors by name."""
        self._tensors: dict[int, tuple[str, Tensor]] = {}
        self._places: dict[int, int] = {}
        self._known: list[Any] = []

    def attributes(self, thing: object) -> dict[str, Facts]:
        """All that changes of an object."""
        names = getattr(thing, "changing", None)
        names = vars(thing) if names is None else names
        values = {name: getattr(thing, name) for name in names}
        return {name: self.pack(value) for name, value in values.items() if not _fixed(value)}

    def records(self) -> list[Facts]:
        """Those that others refer to, by their place."""
        found = []
        for record in self._known:  # grows on the way
            parts = {name: self.pack(getattr(record, name)) for name in _parts(record)}
            found.append([type(record).__name__, parts])
        return found

    def refer(self, record: Any) -> Facts:
        """To something that is made once, however many hold it."""
        if self.settled:
            record = _settled(record)
        if id(record) not in self._places:
            self._places[id(record)] = len(self._known)
            self._known.append(record)
        return {"record": self._places[id(record)]}

    def pack(self, value: Any) -> Facts:
        """What a value is."""
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor):
            return {"tensor": self._named(value)}
        if isinstance(value, np.ndarray):
            return {"array": self._named(torch.from_numpy(value))} if value.dtype.kind in "biuf" else {
                "list": [self.pack(item) for item in value.tolist()]}  # fmt: skip
        if type(value).__name__ in RECORDS:
            return self.refer(value)
        if isinstance(value, Mapping):
            return {"dict": [[self.pack(key), self.pack(item)] for key, item in value.items()]}
        if isinstance(value, list | tuple | set):
            kind = next(name for name in CONTAINERS if isinstance(value, CONTAINERS[name]))  # type: ignore[arg-type]
            return {kind: [self.pack(item) for item in value]}
        if hasattr(value, "__dict__"):
            return {"object": self.attributes(value)}
        raise TypeError(f"a state cannot hold a {type(value).__name__}: {value!r}")

    def _named(self, tensor: Tensor) -> str:
        if id(tensor) not in self._tensors:
            name = str(len(self._tensors))
            self._tensors[id(tensor)] = name, tensor
            self.arrays[name] = np.asarray(tensor.detach().cpu().numpy(), order="C")
        return self._tensors[id(tensor)][0]


class Unpacking:
    """Turns facts into what they were, and puts it back.

    Args:
        arrays: the tensors.
        records: what `Packing.records` has given.
        standing: records, by place, that are there already and only have to be filled.
        device: where tensors are to be.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], records: Sequence[Facts], standing: Mapping[int, Any] | None = None,
        device: torch.device = CPU,
    ) -> None:  # fmt: skip
        self._arrays = arrays
        self._tensors = {name: torch.tensor(each, device=device) for name, each in arrays.items()}
        standing = standing or {}
        self.records: list[Any] = [
            standing[place] if place in standing else object.__new__(RECORDS[kind])
            for place, (kind, _) in enumerate(records)
        ]
        for record, (_, parts) in zip(self.records, records, strict=True):
            for name, part in parts.items():
                object.__setattr__(record, name, self.unpack(part))

    def fill(self, thing: object, facts: Mapping[str, Facts]) -> None:
        """Put back what `Packing.attributes` has found."""
        state = {name: self.unpack(value, getattr(thing, name)) for name, value in facts.items()}
        if hasattr(thing, "__setstate__"):
            thing.__setstate__(state)  # type: ignore[attr-defined]
        else:
            vars(thing).update(state)

    def unpack(self, facts: Facts, present: Any = None) -> Any:
        """What the facts say; `present` stands in its place now, and is filled if others may refer to it."""
        if not isinstance(facts, dict):
            return facts
        [(kind, content)] = facts.items()
        if kind == "tensor":
            return self._tensors[content]
        if kind == "array":
            return self._arrays[content]
        if kind == "record":
            return self.records[content]
        if kind == "object":
            self.fill(present, content)
            return present
        if kind == "dict":
            return self._mapping(content, present)
        items = [self.unpack(item, _at(present, place)) for place, item in enumerate(content)]
        return CONTAINERS[kind](items)

    def _mapping(self, pairs: Sequence[Sequence[Facts]], present: Any) -> dict[Any, Any]:
        known = present if isinstance(present, dict) else {}
        keys = [self.unpack(key) for key, _ in pairs]
        found = {key: self.unpack(item, known.get(key)) for key, (_, item) in zip(keys, pairs, strict=True)}
        if not isinstance(present, dict):
            return found
        present.clear()
        present.update(found)
        return present


def _fixed(value: object) -> bool:
    """Whether the scenario alone says what it is."""
    if hasattr(value, "changing"):
        return False
    frozen = is_dataclass(value) and value.__dataclass_params__.frozen  # type: ignore[attr-defined]
    return (frozen and type(value).__name__ not in RECORDS) or callable(value)


def _parts(record: Any) -> Sequence[str]:
    names = getattr(record, "changing", None)
    return [field.name for field in fields(record)] if names is None else names


def _settled(record: Any) -> Any:
    """Without promises."""
    if isinstance(record, Update):
        return Update(record.client, record.version, record.examples, record.steps, record.duration,
                      record.numbers.result())  # fmt: skip
    return record.result() if isinstance(record, Deferred) else record


def _at(present: Any, place: int) -> Any:
    return present[place] if isinstance(present, list | tuple) and place < len(present) else None
