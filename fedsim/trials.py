"""Runs of one algorithm: those that differ in nothing but their seed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import ScenarioError
from fedsim.folder import sha256
from fedsim.results import Run, load

SEED = "seed"
"""The key of a scenario, and the axis of a grid, by which runs of one algorithm differ."""


@dataclass(frozen=True)
class Algorithm:
    """What was run under several seeds."""

    label: str
    runs: dict[int, Run]
    """By seed."""


def gathered(paths: Iterable[Path | str]) -> list[Run]:
    """All runs of these folders, those of a comparison one by one. ScenarioError if a path is no run folder."""
    return [arm for path in paths for arm in load(path).arms]


def algorithms(runs: Sequence[Run]) -> list[Algorithm]:
    """The runs by what they share but for the seed, in the order of their first ones, each with a label of its own.

    ScenarioError if the same run is there twice.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_apart_from_seed(run.scenario), []).append(run)
    labels = [_label(group[0]) for group in groups.values()]
    often = Counter(labels)
    named = [f"{label} {key[:6]}" if often[label] > 1 else label for label, key in zip(labels, groups, strict=True)]
    return [Algorithm(label, _by_seed(label, group)) for label, group in zip(named, groups.values(), strict=True)]


def _apart_from_seed(scenario: dict[str, Any]) -> str:
    rest = {key: value for key, value in scenario.items() if key != SEED}
    return sha256(json.dumps(rest, sort_keys=True).encode())


def _label(run: Run) -> str:
    """The run's own, without the seed where that is a part of it."""
    without = re.sub(r"(^|-)seed_\d+(?=-|$)", "", run.label).strip("-")
    where = _coordinates(run)
    return "-".join(where) or without or run.path.parent.parent.name


def _coordinates(run: Run) -> list[str]:
    """What it is on the axes of its grid but the seed's, if it is in one."""
    above = Run(run.path.parent)
    found = above.coordinates.get(run.path.name, {})
    return [value for axis, value in found.items() if axis != SEED]


def _by_seed(label: str, group: Sequence[Run]) -> dict[int, Run]:
    found: dict[int, Run] = {}
    for run in group:
        if found.setdefault(run.scenario[SEED], run) is not run:
            raise ScenarioError(f"{run.path}: seed {run.scenario[SEED]} of {label} is there twice")
    return found
