"""The run folder: written while a run goes on, never half; and read back without running anything."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pandas as pd
import yaml
from safetensors.numpy import load_file, save

from fedsim import trace
from fedsim.errors import ScenarioError
from fedsim.progress import Progress

COMPARISON = "comparison.json"
"""In the folder of a comparison: which of its folders are its arms."""

LINKS = "links.parquet"

WRITING_SHARE = 0.05
"""No more than this share of the time goes into rewriting the table while a run goes on."""


def sha256(data: bytes) -> str:
    """The digest that receipts carry."""
    return hashlib.sha256(data).hexdigest()


class RunFolder:
    """Writes what a run yields. Every file appears whole: it is written under another name and renamed."""

    def __init__(self, path: Path, scenario: Mapping[str, Any]):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        self.path = path
        self.digests: dict[str, str] = {}
        self._rested = monotonic()
        self._write("scenario.yaml", yaml.safe_dump(dict(scenario), sort_keys=False, allow_unicode=True).encode())

    def _write(self, name: str, data: bytes) -> None:
        temporary = self.path / f"{name}.tmp"
        temporary.write_bytes(data)
        temporary.rename(self.path / name)
        self.digests[name] = sha256(data)

    def refresh(self, progress: Progress) -> None:
        """Rewrite the tables, unless that was done just now."""
        began = monotonic()
        if began >= self._rested:
            self.tables(progress)
            self._rested = monotonic() + (monotonic() - began) / WRITING_SHARE

    def tables(self, progress: Progress) -> None:
        """What was measured so far, of the model and of each client; a column that appears late is empty before."""
        self._table("metrics.csv", pd.DataFrame(progress.rows))
        if progress.clients:
            self._table("clients.csv", pd.concat([pd.DataFrame(table) for table in progress.clients]))
        if progress.probed is not None and progress.probed.tables:
            self._table("probes.csv", pd.concat([pd.DataFrame(table) for table in progress.probed.tables]))

    def _table(self, name: str, frame: pd.DataFrame) -> None:
        self._write(name, frame.to_csv(index=False).encode())

    def links(self, links: pd.DataFrame) -> None:
        """Each link of the network and what it has carried: what `fedsim.traffic.loaded` says."""
        content = BytesIO()
        links.to_parquet(content, index=False)
        self._write(LINKS, content.getvalue())

    def weights(self, stem: str, weights: Mapping[str, np.ndarray]) -> None:
        """Final parameters by name."""
        whole = {
            name: np.ascontiguousarray(values) for name, values in weights.items()
        }  # a view would be written wrong
        self._write(f"{stem}.safetensors", save(whole))

    def batches(self, rows: Sequence[Mapping[str, int]]) -> None:
        """What trainings have made of batches that grow, if any have; in the order of rounds, then of clients."""
        if rows:
            self._table("batches.csv", pd.DataFrame(rows).sort_values(["training", "client"]))

    def leakage(self, rows: pd.DataFrame, pictures: Mapping[str, Any]) -> None:
        """What an eavesdropper has found: how well, and the examples."""
        self._table("leakage.csv", rows)
        if pictures:
            self.weights("leakage", {name: tensor.numpy() for name, tensor in pictures.items()})

    def comparison(self, arms: Mapping[str, Mapping[str, str]]) -> None:
        """This folder holds the folders of these arms, by label, each with its coordinates if they are a grid."""
        self._json(COMPARISON, {"arms": list(arms), "coordinates": arms})

    def failure(self, error: Exception) -> None:
        """Why the run did not end well."""
        self._json("failure.json", {"type": type(error).__name__, "message": str(error)})

    def receipt(self, facts: Mapping[str, Any]) -> None:
        """What was run on what, and the digests of what came out: the mark of a finished run."""
        self._json("receipt.json", {**facts, "digests": dict(sorted(self.digests.items()))})

    def _json(self, name: str, content: Mapping[str, Any]) -> None:
        self._write(name, (json.dumps(content, indent=2) + "\n").encode())


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

    @cached_property
    def _comparison(self) -> dict[str, Any]:
        path = self.path / COMPARISON
        return json.loads(path.read_text()) if path.exists() else {"arms": []}

    @cached_property
    def arms(self) -> list[Run]:
        """The runs that were compared, in the scenario's order; a single run is its own only arm."""
        return [Run(self.path / name) for name in self._comparison["arms"]] or [self]

    @property
    def coordinates(self) -> dict[str, dict[str, str]]:
        """Of each arm by label, what it is on each axis; none where the comparison is no grid."""
        found = self._comparison.get("coordinates", {})
        return found if any(found.values()) else {}

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row a measurement: virtual seconds, versions, updates, bytes, staleness and the model's metrics.

        The rows of a comparison are those of all its arms, told apart by the column `arm` and one for each axis.
        """
        if self.arms == [self]:
            return pd.read_csv(self.path / "metrics.csv")
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
            return pd.read_csv(path) if path.exists() else None
        frames = [(arm, arm._optional(stem)) for arm in self.arms]
        found = [frame.assign(arm=arm.label) for arm, frame in frames if frame is not None]
        return pd.concat(found, ignore_index=True) if found else None

    @cached_property
    def trace(self) -> pd.DataFrame:
        """One row an event: see `fedsim.trace.COLUMNS`; of a comparison as for `metrics`."""
        if self.arms == [self]:
            return trace.read(self.path / "trace.parquet").to_pandas()
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
        return pd.read_parquet(self.path / LINKS)

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
        return pd.read_csv(self.path / "batches.csv")

    @cached_property
    def leakage(self) -> pd.DataFrame:
        """One row a message that was attacked; of a comparison as for `metrics`. ScenarioError if nobody listened."""
        if self.arms != [self]:
            return pd.concat([arm.leakage.assign(arm=arm.label) for arm in self.arms], ignore_index=True)
        if not (self.path / "leakage.csv").exists():
            raise ScenarioError(f"{self.path}: nobody has listened to this run's messages")
        return pd.read_csv(self.path / "leakage.csv")

    @cached_property
    def reconstructions(self) -> dict[str, np.ndarray]:
        """The `true` and the `found` examples of all messages that were attacked, (n, B, *shape)."""
        return self._several("leakage", "examples that an eavesdropper has found")

    @cached_property
    def scenario(self) -> dict[str, Any]:
        """The resolved scenario."""
        return yaml.safe_load((self.path / "scenario.yaml").read_text())

    @cached_property
    def receipt(self) -> dict[str, Any]:
        """Versions, seeds and digests; empty while the run goes on."""
        return json.loads((self.path / "receipt.json").read_text()) if self.finished else {}

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """The final model's parameters by name; of peers the mean of all models, of a code's the first."""
        return load_file(self.path / "model.safetensors")

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
        return load_file(path)


def clear(path: Path) -> None:
    """Remove the run folder that is there, if one is.

    Raises:
        ScenarioError: if something else is there.
    """
    if path.exists() and not (path / "scenario.yaml").exists():
        raise ScenarioError(f"{path} is there already, and is no run folder that could be replaced")
    shutil.rmtree(path, ignore_errors=True)


def load(path: str | Path) -> Run:
    """Read a run folder, finished or not.

    Raises:
        ScenarioError: if there is none.
    """
    run = Run(Path(path))
    if not (run.path / "scenario.yaml").exists():
        raise ScenarioError(f"{path} is not a run folder: it has no scenario.yaml")
    return run
