"""The run folder, read without running anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from safetensors.numpy import load_file

from fedsim import trace
from fedsim.damage import readable
from fedsim.errors import ScenarioError
from fedsim.folder import COMPARISON, LINKS


@dataclass(frozen=True)
class Run:
    """A run folder, read; a comparison also has one run an arm."""

    path: Path

    @property
    def label(self) -> str:
        """How it is called beside others: an arm by its own name, a run by its scenario's."""
        return self.path.name if (self.path.parent / COMPARISON).exists() else self.path.parent.name

    @property
    def finished(self) -> bool:
        """Whether it came to its end."""
        return (self.path / "receipt.json").exists()

    @property
    def failure(self) -> str | None:
        """Why it did not come to its end, if that is known."""
        return self.error["message"] if self.error else None

    @property
    def error(self) -> dict[str, str] | None:
        """What has ended it, if that is known: an error's type and message."""
        path = self.path / "failure.json"
        return json.loads(path.read_text()) if path.exists() else None

    @cached_property
    def _comparison(self) -> dict[str, Any]:
        path = self.path / COMPARISON
        if not path.exists():
            return {"arms": []}
        with readable(path):
            return json.loads(path.read_text())

    @cached_property
    def arms(self) -> list[Run]:
        """The runs that were compared, in the scenario's order; a single run is its own only arm."""
        return [Run(self.path / name) for name in self._comparison["arms"]] or [self]

    @property
    def planned(self) -> dict[str, dict[str, str]]:
        """Of each arm of a comparison by label, begun or not, what it is on each axis; of a single run nothing."""
        return self._comparison.get("coordinates", {})

    @property
    def coordinates(self) -> dict[str, dict[str, str]]:
        """Of each arm by label, what it is on each axis; none where the comparison is no grid."""
        return self.planned if any(self.planned.values()) else {}

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row a measurement: virtual seconds, versions, updates, bytes, staleness and the model's metrics.

        The rows of a comparison are those of all its arms, told apart by the column `arm` and one for each axis.
        """
        if self.arms == [self]:
            return _table(self.path / "metrics.csv")
        where = self.coordinates
        rows = [arm.metrics.assign(arm=arm.label, **where.get(arm.label, {})) for arm in self.arms]
        return pd.concat(rows, ignore_index=True)

    @cached_property
    def clients(self) -> pd.DataFrame | None:
        """One row a client for each version measured, at the time of its first measurement; of a comparison as above.

        What it holds are `time_s`, `version`, `client`, `examples` (for training) and the client's own metrics.
        None where no run has any (`evaluate: {clients: true}` asks for them).
        """
        return self._optional("clients")

    @cached_property
    def probes(self) -> pd.DataFrame | None:
        """One row a look inside a local training, in the order in which updates were heard; of a comparison as above.

        What it holds are `time_s` of the update's arrival, `client`, `version` (that it has started from), `ordinal`
        (of the client's trainings), `step` (so many taken) and what the probe saw. None where no run has a probe.
        """
        return self._optional("probes")

    def _optional(self, stem: str) -> pd.DataFrame | None:
        if self.arms == [self]:
            path = self.path / f"{stem}.csv"
            return _table(path) if path.exists() else None
        frames = [(arm, arm._optional(stem)) for arm in self.arms]
        found = [frame.assign(arm=arm.label) for arm, frame in frames if frame is not None]
        return pd.concat(found, ignore_index=True) if found else None

    @cached_property
    def trace(self) -> pd.DataFrame:
        """One row an event: see `fedsim.trace.COLUMNS`; of a comparison as for `metrics`."""
        if self.arms == [self]:
            with readable(self.path / "trace.parquet") as path:
                return trace.read(path).to_pandas()
        return pd.concat([arm.trace.assign(arm=arm.label) for arm in self.arms], ignore_index=True)

    @cached_property
    def links(self) -> pd.DataFrame:
        """One row a link and direction: `source`, `target`, `capacity` (bytes/s), `latency` (s), `bytes` carried.

        Of a comparison as for `metrics`. ScenarioError if the run has none, because it is not over.
        """
        if self.arms != [self]:
            return pd.concat([arm.links.assign(arm=arm.label) for arm in self.arms], ignore_index=True)
        if not (self.path / LINKS).exists():
            raise ScenarioError(f"{self.path}: this run says nothing of its links; it has no {LINKS}")
        with readable(self.path / LINKS) as path:
            return pd.read_parquet(path)

    @cached_property
    def batches(self) -> pd.DataFrame:
        """One row a local training whose batches could grow: `client`, `training` (its n-th), `steps` that it took,
        `examples` that it saw, `batch` that the next one begins with; of a comparison as for `metrics`.

        ScenarioError if the run has none.
        """
        if self.arms != [self]:
            return pd.concat([arm.batches.assign(arm=arm.label) for arm in self.arms], ignore_index=True)
        if not (self.path / "batches.csv").exists():
            raise ScenarioError(f"{self.path}: no batches have grown in this run; see local.growth")
        return _table(self.path / "batches.csv")

    @cached_property
    def leakage(self) -> pd.DataFrame:
        """One row a message that was attacked; of a comparison as for `metrics`. ScenarioError if nobody listened."""
        if self.arms != [self]:
            return pd.concat([arm.leakage.assign(arm=arm.label) for arm in self.arms], ignore_index=True)
        if not (self.path / "leakage.csv").exists():
            raise ScenarioError(f"{self.path}: nobody has listened to this run's messages")
        return _table(self.path / "leakage.csv")

    @cached_property
    def reconstructions(self) -> dict[str, np.ndarray]:
        """The `true` and the `found` examples of all messages that were attacked, (n, B, *shape)."""
        return self._several("leakage", "examples that an eavesdropper has found")

    @cached_property
    def scenario(self) -> dict[str, Any]:
        """The resolved scenario."""
        with readable(self.path / "scenario.yaml") as path:
            return yaml.safe_load(path.read_text())

    @cached_property
    def receipt(self) -> dict[str, Any]:
        """Versions, seeds and digests; empty while the run goes on."""
        if not self.finished:
            return {}
        with readable(self.path / "receipt.json") as path:
            return json.loads(path.read_text())

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """The final model's parameters by name; of peers the mean of all models, of a code's the first."""
        with readable(self.path / "model.safetensors") as path:
            return load_file(path)

    @cached_property
    def peers(self) -> dict[str, np.ndarray]:
        """The final parameters of all peers by name, (m, *shape); ScenarioError if the run had none."""
        return self._several("peers", "peers' models")

    @cached_property
    def models(self) -> dict[str, np.ndarray]:
        """Those of all models that a code has trained in turn, (M, *shape); ScenarioError if the run had no code."""
        return self._several("models", "models trained in turn")

    def _several(self, stem: str, what: str) -> dict[str, np.ndarray]:
        path = self.path / f"{stem}.safetensors"
        if not path.exists():
            raise ScenarioError(f"{self.path}: this run has no {what}")
        with readable(path):
            return load_file(path)


def _table(path: Path) -> pd.DataFrame:
    with readable(path):
        return pd.read_csv(path)


def load(path: str | Path) -> Run:
    """Read a run folder, finished or not.

    Raises:
        ScenarioError: if there is none.
    """
    run = Run(Path(path))
    if not (run.path / "scenario.yaml").exists():
        raise ScenarioError(f"{path} is not a run folder: it has no scenario.yaml")
    return run
