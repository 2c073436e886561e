"""A scenario file: which families its keys choose from, and how a file becomes checked arguments.

The only file that knows every family.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path as FilePath
from typing import Any

from fedsim.aggregators import AGGREGATORS
from fedsim.attacks import ATTACKS, LIES, POISONS
from fedsim.coding import CODES
from fedsim.combiners import COMBINERS
from fedsim.comparison import variants
from fedsim.data import DATA, PARTITIONS
from fedsim.defences import DEFENCES, RULES
from fedsim.errors import ScenarioError
from fedsim.exams import EXAMS
from fedsim.executors import EXECUTORS
from fedsim.faults import FAULTS
from fedsim.fleet import AVAILABILITY, DEVICES, PARTICIPATION, RATES, STRAGGLERS
from fedsim.folder import sha256
from fedsim.growth import GROWTH
from fedsim.keys import Scenario
from fedsim.mixing import GRAPHS, MERGE, MIXING
from fedsim.models import MODELS
from fedsim.network import NETWORKS, TRACES
from fedsim.objectives import OBJECTIVES
from fedsim.optimizers import OPTIMIZERS, adopted
from fedsim.peers import COLLECTIVES, PEERS
from fedsim.probes import PROBES
from fedsim.schema import Path, Schema
from fedsim.selection import SELECT
from fedsim.sources import SOURCES
from fedsim.staleness import DISCOUNTS
from fedsim.stalling import TIMINGS
from fedsim.steps import CONTROLS, SCHEDULES
from fedsim.wire import CLIPS, CODECS
from fedsim.yamlfile import YamlFile

FAMILIES = {
    "data": DATA,
    "partition": PARTITIONS,
    "model": MODELS,
    "devices": DEVICES,
    "availability": AVAILABILITY,
    "participation": PARTICIPATION,
    "rate": RATES,
    "stragglers": STRAGGLERS,
    "faults": FAULTS,
    "network": NETWORKS,
    "graph": GRAPHS,
    "mixing": MIXING,
    "merge": MERGE,
    "trace": TRACES,
    "optimizer": OPTIMIZERS,
    "source": SOURCES,
    "schedule": SCHEDULES,
    "control": CONTROLS,
    "growth": GROWTH,
    "select": SELECT,
    "aggregator": AGGREGATORS,
    "discount": DISCOUNTS,
    "peers": PEERS,
    "collective": COLLECTIVES,
    "coding": CODES,
    "codec": CODECS,
    "clip": CLIPS,
    "attack": ATTACKS,
    "objective": OBJECTIVES,
    "lie": LIES,
    "poison": POISONS,
    "timing": TIMINGS,
    "exam": EXAMS,
    "probe": PROBES,
    "combiner": COMBINERS,
    "defence": DEFENCES,
    "rule": RULES,
    "executor": EXECUTORS,
}

GIVEN = {
    "data": ("folders", "seed"),
    "model": ("shape", "classes", "vocabulary", "versions"),
    "devices": ("folders",),
    "availability": ("folders",),
    "participation": ("clients", "seed"),
    "rate": ("labels",),
    "stragglers": ("folders", "clients"),
    "network": ("folders", "seed"),
    "graph": ("clients", "seed", "apart", "links"),
    "mixing": ("clients", "seed", "folders"),
    "merge": ("rounds",),
    "trace": ("folders",),
    "select": ("seed",),
    "aggregator": ("params", "roster", "local_momentum", "seed", "trainer", "model", "classes"),
    "peers": ("clients", "seed"),
    "coding": ("workers", "jobs", "seed"),
    "codec": ("layout",),
    "objective": ("labels", "clients", "outputs", "shape", "seed", "tasks"),
    "exam": ("seed",),
    "probe": ("seed", "dataset", "parts"),
    "combiner": ("seed",),
    "defence": ("seed",),
    "poison": ("classes",),
    "optimizer": ("seed",),
    "source": ("classes", "parts", "optimizer"),
    "schedule": ("versions", "optimizer"),
    "control": ("optimizer",),
    "executor": ("train", "twin", "worth", "row_bytes", "synchronous", "nothing"),
}
"""Arguments of constructors that come from the run and not from the file."""

ADOPT = {"optimizer": adopted}
"""What makes members of a family of what a dotted path names."""

NOWHERE: Mapping[str, str] = {}
"""The coordinates of a run that is in no grid."""

SINGLE = "run"
"""The label of a scenario that compares nothing."""


@dataclass(frozen=True)
class Arm:
    """One checked scenario; a file that compares has several."""

    label: str
    schema: Schema
    keys: Any
    """The checked keys of `Scenario`, by name; choices are not constructed yet."""
    place: Callable[[Path], str]
    """Where in the file a key stands."""
    coordinates: Mapping[str, str] = field(default_factory=dict)
    """What it is on each axis of a grid."""

    def build(self, given: Mapping[str, Any], *path: str) -> Any:
        """Construct what stands at this path; `given` is what its constructors get from the run.

        Raises:
            ScenarioError: if they refuse their arguments.
        """
        model = self.keys
        for step in path:
            model = getattr(model, step)
        return self.schema.build(model, given, path, self.place)

    @property
    def learning_seed(self) -> int:
        """What names the draws of learning."""
        return self.keys.seed if self.keys.learning_seed is None else self.keys.learning_seed

    @property
    def resolved(self) -> dict[str, Any]:
        """All that it says or leaves to a default, as plain data; reading it again gives the same arm."""
        return self.keys.model_dump(mode="json", exclude_none=True)

    @property
    def digest(self) -> str:
        """Names the arm's run folder."""
        return digest(self.resolved)


def digest(resolved: Any) -> str:
    """A short name for resolved scenarios."""
    return sha256(json.dumps(resolved, sort_keys=True).encode())[:12]


@cache
def builtin() -> Schema:
    """The schema of all families, with what is installed beside us."""
    return Schema(FAMILIES, GIVEN, ADOPT)


def read(source: str | FilePath | Mapping[str, Any], overrides: Sequence[str] = ()) -> list[Arm]:
    """Check a scenario: a file (or the same as a mapping), changed by overrides such as `local.steps=5`.

    With a key `compare`, a list of changes, each change to the rest of the file is an arm of its own; or, with axes
    that have changes by name, each of their combinations is one. With a key `sweep`, keys and their values, each of
    these is repeated with every combination of values.

    Raises:
        ScenarioError: a line for each fault, with file and line, what was expected and the nearest valid name.
    """
    document = _document(source, overrides)
    compared, swept = (document.data.pop(key, None) for key in ("compare", "sweep"))
    if compared is None and swept is None:
        return [_arm(SINGLE, builtin().adopting(document.data), document.data, document.place)]
    found = variants(document, compared, swept, FAMILIES)
    schema = builtin().adopting([one.data for one in found])
    return [_arm(one.label, schema, one.data, partial(one.place, document), one.coordinates) for one in found]


def checked(member: Any, source: str | FilePath | Mapping[str, Any], overrides: Sequence[str] = ()) -> Arm:
    """A file of another kind than a scenario, whose keys are the arguments of `member`; as `read`, but one arm."""
    document = _document(source, overrides)
    schema = builtin().adopting(document.data)
    return Arm(SINGLE, schema, schema.check(member, document.data, document.place), document.place)


def _arm(
    label: str, schema: Schema, data: Any, place: Callable[[Path], str], coordinates: Mapping[str, str] = NOWHERE
) -> Arm:
    keys: Any = schema.check(Scenario, data, place)
    ways = [way for way in ("aggregator", "peers", "coding") if getattr(keys, way) is not None]
    if len(ways) != 1:
        said = f"{' and '.join(ways)} exclude each other" if ways else "aggregator: is missing (or peers, or coding)"
        raise ScenarioError(f"{place((ways[0] if ways else 'aggregator',))}: {said}")
    return Arm(label, schema, keys, place, coordinates)


def folded(arms: Sequence[Arm]) -> dict[str, Any]:
    """The scenario that compares these arms: what they share, and the changes of each."""
    every = [arm.resolved for arm in arms]
    shared = {key: value for key, value in every[0].items() if all(other.get(key) == value for other in every)}
    changes = [{key: value for key, value in one.items() if key not in shared} for one in every]
    return shared | {"compare": changes}


def _document(source: str | FilePath | Mapping[str, Any], overrides: Sequence[str]) -> YamlFile:
    """What a file says, with what the overrides say instead. ScenarioError if it cannot be read, or has no keys."""
    if isinstance(source, Mapping):
        document = YamlFile(json.dumps(source), "scenario")
    else:
        document = YamlFile(_text(FilePath(source)), str(source))
    for override in overrides:
        document.override(override)
    if not isinstance(document.data, dict):
        raise ScenarioError(f"{document.name}:1: a scenario is a mapping of keys such as data, model and fleet")
    return document


def _text(path: FilePath) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: expected text in UTF-8, but {error.reason} at byte {error.start}") from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of scenario files."""
    schema = builtin().arguments(Scenario).model_json_schema()
    schema["properties"]["compare"] = {
        "anyOf": [{"type": "array", "items": {"type": "object"}}, {"type": "object"}],
        "description": "changes to the rest of the file, each a run of its own; or axes of a grid of such changes",
    }  # fmt: skip
    schema["properties"]["sweep"] = {
        "type": "object",
        "description": "keys, such as local.optimizer.sgd.lr, each with a list of values or a range such as 0..9",
    }
    return schema
