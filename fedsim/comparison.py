"""Several runs of one file: changes to what they share, as a list, or as axes of a grid of all combinations.

A sweep repeats each of them with all combinations of values of some keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import product
from typing import Any

from fedsim.axes import Axis, axes
from fedsim.errors import ScenarioError
from fedsim.schema import Path
from fedsim.yamlfile import YamlFile, put

SHAPE = "expected a list of changes to this scenario, or axes: {axis: {name: change, ...}, seed: [0, 1]}"


LONGEST = 200
"""Bytes of a label; of longer ones the rest is a digest, as file systems take 255."""


@dataclass(frozen=True)
class Variant:
    """One run of a comparison."""

    label: str
    """Unlike the others', and a folder's name."""
    data: Mapping[str, Any]
    """The whole scenario, changed."""
    said: Sequence[Path]
    """Where in the file its changes stand, the last word first."""
    coordinates: Mapping[str, str] = field(default_factory=dict)
    """What it is on each axis, where the comparison is a grid."""
    axes: Sequence[Axis] = ()
    """Of a sweep."""

    def place(self, document: YamlFile, path: Path) -> str:
        """Where a value was said: on an axis, in a change, or else in what all share."""
        for axis in self.axes:
            if axis.sets(path, document):
                return document.place(axis.where)
        for change in self.said:
            if document.depth((*change, *path)) - len(change) >= max(1, document.depth(path)):
                return document.place((*change, *path))
        return document.place(path)


def variants(document: YamlFile, compared: Any, swept: Any, families: Collection[str]) -> list[Variant]:
    """All runs of a file whose keys `compare` and `sweep` say this; None: it has no such key.

    In `families` another choice replaces the former one.

    Raises:
        ScenarioError: if one of them is something else than what its key takes, or an override changes nothing.
    """
    found = [Variant("", document.data, ())] if compared is None else _compared(document, compared, families)
    if swept is not None:
        found = list(_crossed(document, found, axes(document, swept)))
    _refuse_idle_overrides(document, found)
    return _named(document, found, "sweep" if compared is None else "compare")


def _named(document: YamlFile, found: Sequence[Variant], key: str) -> list[Variant]:
    """With labels that are not too long. ScenarioError if one is no folder's name, or if two are the same."""
    labels = Counter(one.label for one in found)
    for one, times in labels.items():
        if one.startswith(".") or {"/", "\0"} & set(one):
            why = f"{one!r} is no name of a folder; expected one without a slash, and no dot to begin with"
            raise ScenarioError(f"{document.place((key,))}: {key}: {why}")
        if times > 1:
            raise ScenarioError(f"{document.place((key,))}: {key}: two runs are called {one!r}; give them other names")
    return [replace(one, label=_short(one.label)) for one in found]


def _short(label: str) -> str:
    whole = label.encode()
    if len(whole) <= LONGEST:
        return label
    return f"{whole[: LONGEST - 9].decode(errors='ignore')}-{sha256(whole).hexdigest()[:8]}"


def _compared(document: YamlFile, compared: Any, families: Collection[str]) -> list[Variant]:
    base = document.data
    if isinstance(compared, Mapping):
        found = list(_grid(document, compared, families))
    elif isinstance(compared, list) and all(isinstance(change, Mapping) for change in compared):
        labels = zip(_labels(compared, families), compared, strict=True)
        found = [Variant(label, merge(base, change, families), [("compare", number)])
                 for number, (label, change) in enumerate(labels)]  # fmt: skip
    else:
        found = []
    if not found:
        raise ScenarioError(f"{document.place(['compare'])}: compare: {SHAPE}")
    return found


def _crossed(document: YamlFile, found: Sequence[Variant], swept: Sequence[Axis]) -> Iterator[Variant]:
    """Each of these runs with all combinations of values; what it was among its like is one more axis."""
    for one in found:
        before = dict(one.coordinates) or ({"compare": one.label} if one.label else {})
        _refuse_twins(document, before, swept)
        for names in product(*(axis.values for axis in swept)):
            data, words = deepcopy(dict(one.data)), [one.label] if one.label else []
            for axis, name in zip(swept, names, strict=True):
                put(data, axis.path, axis.values[name], f"sweep.{axis.name}")
                words.append(axis.word(name))
            coordinates = before | {axis.name: name for axis, name in zip(swept, names, strict=True)}
            yield Variant("-".join(words), data, one.said, coordinates, swept)


def _refuse_twins(document: YamlFile, compared: Collection[str], swept: Sequence[Axis]) -> None:
    names = [*compared, *(axis.name for axis in swept)]
    for axis in swept:
        if names.count(axis.name) > 1:
            raise ScenarioError(f"{document.place(axis.where)}: sweep.{axis.name}: compare has this axis too")


def _grid(document: YamlFile, axes: Mapping[str, Any], families: Collection[str]) -> Iterator[Variant]:
    named = {str(axis): _values(document, str(axis), values) for axis, values in axes.items()}
    for names in product(*named.values()):
        data, said = document.data, list[Path]()
        for axis, name in zip(named, names, strict=True):
            data = merge(data, named[axis][name], families)
            said = [*said, ("compare",)] if isinstance(axes[axis], list) else [("compare", axis, name), *said]
        yield Variant("-".join(names), data, said, dict(zip(named, names, strict=True)))


def _values(document: YamlFile, axis: str, values: Any) -> dict[str, Mapping[str, Any]]:
    """The changes of an axis by name; a list of plain values stands for the key that the axis is called after."""
    if isinstance(values, list) and values and not any(isinstance(value, Mapping | list) for value in values):
        return {str(value): {axis: value} for value in values}
    if isinstance(values, Mapping) and values and all(change is None or isinstance(change, Mapping)
                                                      for change in values.values()):  # fmt: skip
        return {str(name): change or {} for name, change in values.items()}
    raise ScenarioError(f"{document.place(['compare', axis])}: compare.{axis}: {SHAPE}")


def merge(base: Mapping[str, Any], change: Mapping[str, Any], families: Collection[str]) -> dict[str, Any]:
    """`base` with `change` in it; another choice from a family replaces the former one."""
    merged = dict(base)
    for key, new in change.items():
        old = base.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and (key not in families or old.keys() == new.keys()):
            new = merge(old, new, families)
        merged[key] = new
    return merged


def _refuse_idle_overrides(document: YamlFile, found: Sequence[Variant]) -> None:
    """An override of what every run says anew would change nothing, and nobody would notice."""
    for path, said in document.overrides.items():
        wanted = _at(document.data, path)
        if path[0] not in ("compare", "sweep") and all(_at(variant.data, path) != wanted for variant in found):
            swept = [axis.where for axis in found[0].axes if axis.path == path[: len(axis.path)]]
            if swept:
                raise ScenarioError(
                    f"{said}: every run of the sweep has its own; change {'.'.join(map(str, swept[0]))}"
                )
            own = next(change for change in found[0].said if document.depth((*change, path[0])) > len(change))
            place = ".".join(map(str, (*own, *path)))
            raise ScenarioError(f"{said}: every run that is compared has its own {path[0]}; override {place}")


def _at(data: Any, path: Path) -> Any:
    for step in path:
        data = data.get(step) if isinstance(data, Mapping) else None
    return data


def _labels(changes: Sequence[Mapping[str, Any]], families: Collection[str]) -> list[str]:
    """Short names that tell the changes apart: what is chosen if that is enough, else everything that is said.

    What all of them say does not tell them apart.
    """
    chosen = [_chosen(change, families) for change in changes]
    both = [words + _nested(change, families) for words, change in zip(chosen, changes, strict=True)]
    everything = [_said(change) for change in changes]
    alike = len({tuple(words) for words in chosen}) == 1
    for said in (chosen, everything if alike else both, everything):
        shared = set.intersection(*map(set, said)) if said else set()
        labels = ["-".join(word for word in own if word not in shared) or "-".join(own) for own in said]
        if len(set(labels)) == len(labels) and all(labels):
            return labels
    return [f"arm-{number}" for number in range(len(changes))]


def _chosen(change: Mapping[str, Any], families: Collection[str]) -> list[str]:
    new = [one or {} for key, one in change.items() if key in families]
    chosen = [one if isinstance(one, str) else next(iter(one), "") for one in new]
    return [str(name).rpartition(":")[2] for name in chosen]


def _nested(change: Mapping[str, Any], families: Collection[str]) -> list[str]:
    nested = [_said(new) for key, new in change.items() if key in families and isinstance(new, Mapping)]
    return [word for words in nested for word in words]


def _said(change: Any, path: str = "") -> list[str]:
    if not isinstance(change, Mapping):
        return [f"{path}_{change}".replace("/", "_").replace(" ", "")]
    return [word for key, new in change.items() for word in _said(new, str(key))]
