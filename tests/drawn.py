"""Whole scenarios, drawn from their JSON Schema: a small one that runs, and some of its keys drawn anew."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fedsim.scenario import json_schema

Schema = dict[str, Any]

BASE = {
    "seed": 1,
    "until": {"versions": 3, "time": "1 d"},
    "data": {"digits": {"partition": "iid"}},
    "model": "logistic",
    "fleet": {"clients": 4, "devices": "constant"},
    "local": {"steps": 2, "batch": 4, "optimizer": {"sgd": {"lr": 0.05}}},
    "evaluate": {"every": "1 h"},
}
"""To which one of the `WAYS` is added."""

WAYS = ("aggregator", "peers", "coding")

DRAWN = {
    (): ("data", "model", "network", "links", "wire", "adversaries", "defence", "edges", "select", "executor",
         "eavesdrop", "accountant", "delta", "faults"),
    ("fleet",): ("devices", "availability", "participation", "stragglers", "drop"),
    ("local",): ("optimizer", "optimizer_state", "private", "objective", "shrink", "personal", "source", "schedule",
                 "control", "growth", "probe"),
    ("evaluate",): ("train", "clients", "robust", "exam"),
}  # fmt: skip
"""Keys that are drawn anew, by where they stand."""

OPTIONAL = 2
"""No more arguments that may be left out are given."""

NUMBERS = (0.0, 0.01, 0.1, 0.5, 0.9, 1.0, 2.0, 3.0, 10.0)

TIMES = ("1 us", "200 ms", "1 s", "3 s", "10 s", "1 h")
"""At which faults strike, and for how long."""


@cache
def schema() -> Schema:
    """Of scenario files."""
    return json_schema()


def scenarios(changes: int = 3) -> SearchStrategy[Schema]:
    """The base by one of the ways, with up to so many keys drawn anew. Most are valid; all shrink to the base."""
    places = [(*path, key) for path, keys in DRAWN.items() for key in keys]
    return st.builds(_changed, way(), st.lists(st.sampled_from(places).flatmap(_change), max_size=changes))


def way() -> SearchStrategy[Schema]:
    """An aggregator, peers or a code."""
    return st.sampled_from(WAYS).flatmap(lambda name: st.fixed_dictionaries({name: at((name,))}))


def at(path: tuple[str, ...]) -> SearchStrategy[Any]:
    """What may stand at this place."""
    found = schema()
    for key in path:
        found = _table(found)["properties"][key]
    return values(found)


def values(found: Schema) -> SearchStrategy[Any]:
    """What a part of the schema admits, with small numbers."""
    if "$ref" in found:
        return values(_referred(found))
    if "anyOf" in found:
        return st.one_of([values(way) for way in found["anyOf"] if way.get("type") != "null"])
    if "enum" in found or "const" in found:
        return st.sampled_from(found.get("enum") or [found["const"]])
    if "examples" in found:
        return st.sampled_from(found["examples"])
    return KINDS[found["type"]](found) if "type" in found else st.nothing()


def _change(path: tuple[str, ...]) -> SearchStrategy[tuple[tuple[str, ...], Any]]:
    return st.tuples(st.just(path), at(path))


def _changed(way: Schema, changes: list[tuple[tuple[str, ...], Any]]) -> Schema:
    drawn: Schema = {key: dict(value) if isinstance(value, dict) else value for key, value in BASE.items()} | way
    for (*above, key), value in changes:
        table = drawn
        for step in above:
            table = table[step]
        table[key] = value
    return drawn


def _referred(found: Schema) -> Schema:
    return schema()["$defs"][found["$ref"].removeprefix("#/$defs/")]


def _table(found: Schema) -> Schema:
    """The one that has properties, behind references and alternatives."""
    if "$ref" in found:
        return _table(_referred(found))
    ways = [_table(way) for way in found.get("anyOf", ())]
    return next((way for way in ways if "properties" in way), found)


def _objects(found: Schema) -> SearchStrategy[Any]:
    fields = found.get("properties", {})
    if found.get("maxProperties") == 1:
        return st.sampled_from(sorted(fields)).flatmap(lambda name: st.fixed_dictionaries({name: values(fields[name])}))
    required = found.get("required", [])
    optional = sorted(set(fields) - set(required))
    some = st.lists(st.sampled_from(optional), max_size=OPTIONAL, unique=True) if optional else st.just([])
    return some.flatmap(lambda names: st.fixed_dictionaries({name: values(fields[name]) for name in required + names}))


def _arrays(found: Schema) -> SearchStrategy[Any]:
    least, most = found.get("minItems", 0), found.get("maxItems", 3)
    if "prefixItems" in found:
        return st.tuples(*map(values, found["prefixItems"])).map(list)
    return st.lists(values(found.get("items", {"type": "integer"})), min_size=least, max_size=max(least, most))


def _integers(found: Schema) -> SearchStrategy[int]:
    least = max(found.get("minimum", 0), found.get("exclusiveMinimum", -1) + 1)
    return st.integers(least, min(found.get("maximum", least + 4), least + 4))


def _numbers(found: Schema) -> SearchStrategy[float]:
    fits = [
        number for number in NUMBERS
        if found.get("minimum", 0) <= number <= found.get("maximum", 100)
        and found.get("exclusiveMinimum", -1) < number < found.get("exclusiveMaximum", 101)
    ]  # fmt: skip
    return st.sampled_from(fits or [found.get("minimum", 1.0)])


def _strings(found: Schema) -> SearchStrategy[str]:
    return st.sampled_from(["", "nothing", "weight"])


KINDS = {
    "object": _objects, "array": _arrays, "integer": _integers, "number": _numbers, "string": _strings,
    "boolean": lambda found: st.booleans(), "null": lambda found: st.none(),
}  # fmt: skip


def faults() -> SearchStrategy[list[Schema]]:
    """One to three faults, all of them whole: each by chance, or at times at which something is under way."""
    chances, times = st.sampled_from((0.1, 0.5, 1.0)), st.lists(st.sampled_from(TIMES), min_size=1, max_size=3)
    by_chance = st.fixed_dictionaries({"chance": chances})
    when = by_chance | st.fixed_dictionaries({"at": times})
    often = st.fixed_dictionaries({"at": times}) | st.fixed_dictionaries(
        {"every": st.sampled_from(TIMES), "times": st.integers(1, 5)}
    )
    lasting = {"lasts": st.sampled_from(TIMES)}
    phases, ways = st.sampled_from(("download", "train", "upload")), st.sampled_from(("nan", "bit", "shape"))
    whole = {
        "kill": _with(when, phase=phases),
        "duplicate": _with(when, times=st.integers(1, 3)),
        "delay": _with(when, by=st.sampled_from(TIMES)),
        "corrupt": _with(by_chance, how=ways),
        "degrade": _with(often, **lasting, share=st.sampled_from((0.01, 0.5))),
        "partition": _with(often, **lasting),
        "skew": _with(by_chance, factor=st.sampled_from((0.01, 0.5, 3.0))),
        "restart": often,
    }
    one = st.sampled_from(sorted(whole)).flatmap(lambda name: st.fixed_dictionaries({name: whole[name]}))
    return st.lists(one, min_size=1, max_size=3)


def _with(timed: SearchStrategy[Schema], **arguments: SearchStrategy[Any]) -> SearchStrategy[Schema]:
    return st.builds(lambda one, other: one | other, timed, st.fixed_dictionaries(arguments))
