"""What trackers are told of a run: its measurements as scalars, and its scenario as flat parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from fedsim.results import Run


def scalars(run: Run) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Of each measurement its version, its virtual seconds and all other columns that are finite."""
    for row in run.metrics.to_dict("records"):
        others = {str(name): float(value) for name, value in row.items() if name not in ("version", "time_s")}
        yield int(row["version"]), float(row["time_s"]), {k: v for k, v in others.items() if isfinite(v)}


def parameters(run: Run) -> dict[str, str]:
    """`local.steps: 20` and so on."""
    return dict(_flat(run.scenario))


def _flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, (*path, str(name)))
    else:
        yield ".".join(path), str(value)
