"""YAML as people expect it (`on` is a word, `1e-3` a number), and where in the file each value stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from fedsim.errors import ScenarioError

Path = Sequence[str | int]

DEEPEST = 50
"""No part of a document may be deeper within others."""

MOST = 100_000
"""Nor may it have more nodes, aliases counted as often as they are used."""

KNOWN = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's idea of booleans and numbers."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own way of configuring a loader
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """What a node stands for; PyYAML does not say where a number is that is none."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(?:true|false)$"), list("tf"))
_FLOAT = r"(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$"
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT), list("-+0123456789."))


class YamlFile:
    """A parsed document that remembers the line of every value."""

    def __init__(self, text: str, name: str):
        self.name = name
        self.nodes = 0
        self.overrides: dict[tuple[str | int, ...], str] = {}
        try:
            loader = _Loader(text)
            try:
                self.root = loader.get_single_node()
                self._look_over(self.root, 1)
                self.data: Any = {} if self.root is None else loader.construct_document(self.root)
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ScenarioError(f"{name}:{line}: this is not YAML: {error.problem}") from None
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n") + 1
            raise ScenarioError(f"{name}:{line}: this is not YAML: {error.reason}") from None
        except RecursionError:
            raise ScenarioError(f"{name}:1: this is no scenario: its parts are too deep within others") from None

    def _look_over(self, node: yaml.Node | None, depth: int) -> None:
        """Refuse what no scenario needs: keys given twice or that are no words, and documents without end."""
        if node is None:
            return
        line = node.start_mark.line + 1
        self.nodes += 1
        if depth > DEEPEST or self.nodes > MOST:
            raise ScenarioError(f"{self.name}:{line}: expected at most {MOST} parts, and none of them deeper than "
                                f"{DEEPEST} within others")  # fmt: skip
        if node.tag not in KNOWN:
            raise ScenarioError(f"{self.name}:{line}: {node.tag} is not known; expected words, numbers, lists and keys")
        for inner in self._keyed(node) if isinstance(node, yaml.MappingNode) else _items(node):
            self._look_over(inner, depth + 1)

    def _keyed(self, node: yaml.MappingNode) -> Iterator[yaml.Node]:
        """What stands under the keys of a mapping."""
        seen: set[str] = set()
        for key, value in node.value:
            place = f"{self.name}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode) or not key.value:
                raise ScenarioError(f"{place}: expected a word as the key")
            if key.value in seen:
                raise ScenarioError(f"{place}: {key.value} is given twice")
            seen.add(key.value)
            yield value

    def override(self, text: str) -> None:
        """Set one value by its path, as in `local.steps=5`.

        Raises:
            ScenarioError: if it has another form, or the path leads through something that has no keys.
        """
        key, equals, new = text.partition("=")
        if not equals or not key:
            raise ScenarioError(f"override {text!r}: expected key=value, for example local.steps=5")
        path = steps_of(key)
        put(self.data, path, value(new), said := f"override {text!r}")
        self.overrides[path] = said

    def place(self, path: Path) -> str:
        r"""`file:line` of the value at this path, or of the nearest thing around it; or the override that set it.

        >>> YamlFile("a: 1\nb:\n  c: 2", "x.yaml").place(["b", "c"])
        'x.yaml:3'
        """
        for length in range(len(path), 0, -1):
            if tuple(path[:length]) in self.overrides:
                return self.overrides[tuple(path[:length])]
        node, line = self.root, 1
        for step in path:
            child = _child(node, step)
            if child is None:
                break
            line, node = child
        return f"{self.name}:{line}"

    def depth(self, path: Path) -> int:
        """How many steps of the path exist in the file."""
        node, depth = self.root, 0
        for step in path:
            child = _child(node, step)
            if child is None:
                break
            node, depth = child[1], depth + 1
        return depth


def _items(node: yaml.Node) -> list[yaml.Node]:
    return node.value if isinstance(node, yaml.SequenceNode) else []


def steps_of(key: str) -> tuple[str | int, ...]:
    """The path that a key with dots names.

    >>> steps_of("compare.0.local")
    ('compare', 0, 'local')
    """
    return tuple(int(step) if step.isdigit() else step for step in key.split("."))


def put(data: Any, path: Path, new: Any, said: str) -> None:
    """Set one value of plain data in place; `said` is what a ScenarioError begins with, if there is no such path."""
    for step in path[:-1]:
        data = _enter(data, step, said)
    _enter(data, path[-1], said)
    data[path[-1]] = new


def _enter(around: Any, step: str | int, said: str) -> Any:
    """What stands at this step of a path; a bare choice or nothing becomes a mapping."""
    if isinstance(around, list):
        if not isinstance(step, int) or step >= len(around):
            raise ScenarioError(f"{said}: {step} is not one of the {len(around)} items of the list")
        return around[step]
    if not isinstance(around, dict):
        raise ScenarioError(f"{said}: {around!r} has no key {step!r}")
    found = around.get(step)
    around[step] = {} if found is None else {found: {}} if isinstance(found, str) else found
    return around[step]


def _child(node: yaml.Node | None, step: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.line + 1, node.value[step]
    elif isinstance(node, yaml.ScalarNode) and node.value == str(step):
        return node.start_mark.line + 1, node
    return None


def value(text: str) -> Any:
    """A single value as it would be read from a file.

    >>> value("1e-3"), value("on"), value("true"), value("{sgd: {lr: 1}}")
    (0.001, 'on', True, {'sgd': {'lr': 1}})
    """
    return YamlFile(text, "override").data if text else ""
