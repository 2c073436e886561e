"""From constructors to a strict schema: `{name: {argument: value}}`, where the arguments are the constructor's own.

A family is a table of constructors under the name of the argument that takes one. An argument whose name is a
family's is a choice from it, or a list of choices if it is a tuple, unless it is a number; an argument that is a
dataclass, or a tuple of them, is a group of arguments, or a list of groups; `given` arguments come from the run and do
not appear in a file. A constructor may name the one argument that a bare value stands for (`shorthand`); in a family, a
bare number stands for the first member that does. There is no second description of anything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar, cast, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from fedsim.errors import ScenarioError, nearest, told

Member = Callable[..., Any]
Path = tuple[str | int, ...]


NUMBERS = (int, float)


class Arguments(BaseModel):
    """The arguments of one constructor, checked."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    member: ClassVar[Any]

    @field_validator("*", mode="before")
    @classmethod
    def _no_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Pydantic would take `true` for 1."""
        if isinstance(value, bool) and bool not in _kinds(cls.model_fields[str(field.field_name)].annotation):
            raise ValueError("expected something other than true or false")
        return value

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        """A bare value may stand for the one argument that the constructor names as its shorthand."""
        shorthand = getattr(cls.member, "shorthand", None)
        return {shorthand: value} if shorthand and not isinstance(value, (Mapping, Arguments)) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, build: Any) -> dict[str, Any]:
        """The arguments by name, or the shorthand."""
        table = build.resolve_ref_schema(build(core))
        shorthand = getattr(cls.member, "shorthand", None) if hasattr(cls, "member") else None
        return {"anyOf": [table["properties"][shorthand], table]} if shorthand else table


class Choice(BaseModel):
    """One member of a family, with its arguments."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    family: ClassVar[str]
    shorthand: ClassVar[str | None] = None
    """The member that a bare number stands for."""

    @model_validator(mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        if isinstance(value, Choice):
            return value
        if value is None and "null" in cls.model_fields:  # YAML's word for nothing is also an executor's name
            value = "null"
        if isinstance(value, str):
            value = {value: {}}
        if cls.shorthand and isinstance(value, (int, float)):
            value = {cls.shorthand: value}
        if not isinstance(value, Mapping) or len(value) != 1:
            names = ", ".join(sorted(cls.model_fields))
            raise PydanticCustomError(
                "choice", "expected one {family}, one of: {names}", {"family": cls.family, "names": names}
            )
        return {name: {} if arguments is None else arguments for name, arguments in value.items()}

    @property
    def name(self) -> str:
        """Which member."""
        return next(name for name in self.model_fields_set if getattr(self, name) is not None)

    @property
    def arguments(self) -> Arguments:
        """Its arguments."""
        return getattr(self, self.name)

    @model_serializer
    def _plain(self) -> dict[str, Any]:
        return {self.name: self.arguments}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, build: Any) -> dict[str, Any]:
        """Either a bare name or one name with arguments; where there is a shorthand, also a number."""
        table = build.resolve_ref_schema(build(core))
        ways = [{"enum": sorted(cls.model_fields)}, {**table, "minProperties": 1, "maxProperties": 1}]
        return {"anyOf": [*ways, {"type": "number"}] if cls.shorthand else ways}


class Schema:
    """Knows every family; makes checked models of constructors, and constructs from them."""

    def __init__(
        self, families: Mapping[str, Mapping[str, Member]], given: Mapping[str, Collection[str]],
        adopt: Mapping[str, Callable[[Member], Member]],
    ):  # fmt: skip
        """`given` names each family's arguments that come from the run; `adopt` makes members of what is found."""
        self.given, self.adopt = given, adopt
        self.families = {name: {**table, **self._installed(name)} for name, table in families.items()}
        self.choice = cache(self._choice)
        self.arguments = cache(self._arguments)

    # Making models --------------------------------------------------------------------------------------------------

    def adopting(self, data: Any) -> Schema:
        """The schema that also knows the plug-ins that `data` names by a dotted path (`my_lab.rules:MyRule`)."""
        found = list(_dotted(data, self.families))
        if not found:
            return self
        families = {family: dict(table) for family, table in self.families.items()}
        for family, name in found:
            families[family][name] = self._adopted(family, _load(family, name))
        return Schema(families, self.given, self.adopt)

    def _installed(self, family: str) -> dict[str, Member]:
        """Plug-ins of installed packages: entry points of the group `fedsim.<family>`."""
        return {one.name: self._adopted(family, one.load()) for one in entry_points(group=f"fedsim.{family}")}

    def _adopted(self, family: str, found: Member) -> Member:
        return self.adopt[family](found) if family in self.adopt else found

    def member(self, family: str, name: str) -> Member:
        """What a family has under this name. ScenarioError if there is no such family, or nothing under it."""
        for what, wanted, table in (("family", family, self.families), (family, name, self.families.get(family, {}))):
            if wanted not in table:
                raise ScenarioError(f"there is no {what} {wanted!r}; {nearest(wanted, table)}")
        return self.families[family][name]

    def _choice(self, family: str) -> type[Choice]:
        fields: dict[str, Any] = {
            name: (self.arguments(member, family) | None, None)
            for name, member in sorted(self.families[family].items())
        }
        model = create_model(f"{family} choice", __base__=Choice, **fields)
        model.family = family
        members = self.families[family].items()
        model.shorthand = next((name for name, member in members if hasattr(member, "shorthand")), None)
        return model

    def _arguments(self, member: Any, family: str | None = None) -> type[Arguments]:
        described = member.__init__ if isinstance(member, type) and not is_dataclass(member) else member
        hints = get_type_hints(described, include_extras=True)
        given = self.given.get(family, ()) if family else ()
        fields = {
            name: self._field(name, hints.get(name, Any), parameter.default)
            for name, parameter in inspect.signature(cast("Member", member)).parameters.items()
            if name not in given and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }
        model = create_model(getattr(member, "__name__", str(member)), __base__=Arguments, **cast("Any", fields))
        model.member = member
        return model

    def _field(self, name: str, hint: Any, default: Any) -> tuple[Any, Any]:
        if name in self.families and not any(getattr(kind, "__origin__", kind) in NUMBERS for kind in _kinds(hint)):
            several = any(get_origin(each) is tuple for each in _kinds(hint))
            kind = tuple[self.choice(name), ...] if several else self.choice(name)
            if default is None:
                return (kind | None, None)
            if isinstance(default, str):
                return kind, Field(default, validate_default=True)
            default = self._chosen(name, default) if is_dataclass(default) else default
        elif is_dataclass(hint):
            kind = self.arguments(hint)
            default = kind.model_construct(**vars(default)) if is_dataclass(default) else default
        elif type(None) in _kinds(hint) and is_dataclass(_kinds(hint)[0]):
            kind = self.arguments(_kinds(hint)[0]) | None
        elif get_origin(hint) is tuple and is_dataclass(_kinds(hint)[0]):
            kind = tuple[self.arguments(_kinds(hint)[0]), ...]
        else:
            kind = hint
        return (kind, Field(...) if default is inspect.Parameter.empty else default)

    def _chosen(self, family: str, instance: Any) -> Choice:
        """The choice that yields this instance: how a constructor's default is shown in a resolved scenario."""
        name = next(name for name, member in self.families[family].items() if member is type(instance))
        kind = self.arguments(type(instance), family)
        values = {field: getattr(instance, field) for field in kind.model_fields}
        return self.choice(family).model_construct(_fields_set={name}, **{name: kind.model_construct(**values)})

    # Checking and building ------------------------------------------------------------------------------------------

    def check(self, member: Member, data: Any, place: Callable[[Path], str]) -> Arguments:
        """The checked arguments of `member`.

        Raises:
            ScenarioError: one line a fault, each with its place, what was expected and the nearest valid name.
        """
        model = self.arguments(member)
        try:
            return model.model_validate(data)
        except ValidationError as error:
            lines = [self._fault(model, fault, place) for fault in error.errors(include_url=False)]
            raise ScenarioError("\n".join(lines)) from None

    def _fault(self, model: type[BaseModel], fault: Any, place: Callable[[Path], str]) -> str:
        path: Path = fault["loc"]
        where = f"{place(path)}: {'.'.join(map(str, path)) or 'scenario'}"
        if fault["type"] == "extra_forbidden":
            around = _model_at(model, path[:-1])
            what = around.family if issubclass(around, Choice) else "key"
            return f"{where}: there is no {what} {path[-1]!r} here; {nearest(str(path[-1]), around.model_fields)}"
        if fault["type"] == "missing":
            return f"{where}: is missing"
        message = fault["msg"].removeprefix("Value error, ")
        return (
            f"{where}: {message}" if repr(fault["input"]) in message else f"{where}: {message}, not {fault['input']!r}"
        )

    def build(self, model: Any, given: Mapping[str, Any], path: Path, place: Callable[[Path], str]) -> Any:
        """Construct what a checked model describes; `given` holds what comes from the run.

        Raises:
            ScenarioError: if the constructor refuses its arguments, with their place.
        """
        if isinstance(model, Choice):
            return self.build(model.arguments, given, (*path, model.name), place)
        if isinstance(model, tuple):
            return tuple(self.build(part, given, (*path, number), place) for number, part in enumerate(model))
        if not isinstance(model, Arguments):
            return model
        own = {name: self.build(getattr(model, name), given, (*path, name), place) for name in type(model).model_fields}
        wanted = inspect.signature(type(model).member).parameters
        try:
            return type(model).member(
                **own, **{name: value for name, value in given.items() if name in wanted and name not in own}
            )
        except Exception as error:
            meant = isinstance(error, ValueError) or ":" in str(path[-1])  # else it is our fault, and not the user's
            if isinstance(error, ScenarioError) or not meant:
                raise
            raise ScenarioError(f"{place(path)}: {'.'.join(map(str, path))}: {told(error)}") from None


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel]:
    """The model that checks what stands at `path`."""
    for step in path:
        kinds = [model.model_fields[str(step)].annotation] if str(step) in model.model_fields else []
        kinds += [part for kind in _kinds(kinds[0]) for part in _kinds(kind)] if kinds else []
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return model


def _kinds(hint: Any) -> tuple[Any, ...]:
    """A type, or those of a union."""
    return getattr(hint, "__args__", (hint,))


def _dotted(data: Any, families: Collection[str]) -> Iterator[tuple[str, str]]:
    """Every family and dotted path that stand together in `data`."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            names = [value] if isinstance(value, str) else list(value) if isinstance(value, Mapping) else []
            yield from ((key, name) for name in names if key in families and ":" in str(name))
            yield from _dotted(value, families)
    elif isinstance(data, list):
        for value in data:
            yield from _dotted(value, families)


def _load(family: str, name: str) -> Member:
    module, _, attribute = name.partition(":")
    try:
        member = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ScenarioError(f"{family}: cannot load {name!r}: {error}") from None
    if not callable(member):
        raise ScenarioError(f"{family}: {name!r} is not something that can be called")
    return member
