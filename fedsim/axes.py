"""Axes of a sweep: keys of a scenario, each with the values that it is to have in turn."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.errors import ScenarioError
from fedsim.schema import Path
from fedsim.yamlfile import YamlFile, steps_of, value

SHAPE = "expected keys with the values that they are to have, such as {local.optimizer.sgd.lr: [0.01, 0.1], seed: 0..9}"

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


@dataclass(frozen=True)
class Axis:
    """One key and its values."""

    path: Path
    """Where the key stands in a scenario."""
    values: Mapping[str, Any]
    """By their names in labels and tables."""
    where: Path
    """Where in the file the axis stands."""

    @property
    def name(self) -> str:
        """The key, as in an override."""
        return ".".join(map(str, self.path))

    def word(self, name: str) -> str:
        """A value's part of a run's label."""
        return f"{self.path[-1]}_{name}"

    def sets(self, path: Path, document: YamlFile) -> bool:
        """Whether what stands at this path of a scenario comes from here."""
        alike = all(own == other for own, other in zip(self.path, path, strict=False))
        return alike and (len(path) >= len(self.path) or document.depth(path) < len(path))


def axes(document: YamlFile, swept: Any, where: Path = ("sweep",)) -> list[Axis]:
    """What stands under the key `sweep`; keys may be paths with dots, or mappings in one another.

    ScenarioError if that is something else, or a value is there twice.
    """
    if not isinstance(swept, Mapping) or not swept:
        raise ScenarioError(f"{document.place(where)}: {'.'.join(map(str, where))}: {SHAPE}")
    found = []
    for key, inner in swept.items():
        here = (*where, key)
        found += axes(document, inner, here) if isinstance(inner, Mapping) else [_axis(document, inner, here)]
    return found


def _axis(document: YamlFile, said: Any, where: Path) -> Axis:
    path = steps_of(".".join(map(str, where[1:])))
    values = list(_expanded(said if isinstance(said, list) else [said]))
    names = [_name(one) for one in values]
    twice = [name for name in names if names.count(name) > 1]
    if twice or not values:
        why = f"{twice[0]} is there twice" if twice else SHAPE
        raise ScenarioError(f"{document.place(where)}: {'.'.join(map(str, where))}: {why}")
    return Axis(path, dict(zip(names, values, strict=True)), where)


def _expanded(values: Sequence[Any]) -> Iterator[Any]:
    """With all numbers of a range such as 0..9, both ends included."""
    for one in values:
        ends = _RANGE.fullmatch(one) if isinstance(one, str) else None
        yield from range(int(ends[1]), int(ends[2]) + 1) if ends else [one]


def _name(one: Any) -> str:
    """Short, and fit to be part of a folder's name."""
    return "_".join(re.findall(r"[\w.+-]+", str(one)))


def override(text: str) -> str:
    """What a command line says of a key, as an override: several values make it an axis.

    >>> override("seed=0..9"), override("local.optimizer.sgd.lr=0.01,0.1"), override("local.steps=5")
    ('sweep.seed=[0..9]', 'sweep.local.optimizer.sgd.lr=[0.01,0.1]', 'local.steps=5')
    """
    key, _, values = text.partition("=")
    several = len(list(_expanded(value(f"[{values}]")))) > 1
    return f"sweep.{key}=[{values}]" if several else text
