"""The run folder as it is written, while a run goes on, and never half."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pandas as pd
import yaml
from safetensors.numpy import save

from fedsim.errors import ScenarioError
from fedsim.progress import Progress

COMPARISON = "comparison.json"
"""In the folder of a comparison: which of its folders are its arms."""

LINKS = "links.parquet"

SCENARIO = "scenario.yaml"

WRITING_SHARE = 0.05
"""No more than this share of the time goes into rewriting the table while a run goes on."""


def sha256(data: bytes) -> str:
    """The digest that receipts carry."""
    return hashlib.sha256(data).hexdigest()


class RunFolder:
    """Writes what a run yields. Every file appears whole: it is written under another name and renamed."""

    def __init__(self, path: Path, scenario: Mapping[str, Any], keep: Collection[str] = ()):
        """Of what a former run has left, only what is named in `keep` stays."""
        path.mkdir(parents=True, exist_ok=True)
        for old in [old for old in path.iterdir() if old.name not in keep]:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        self.path = path
        self.digests: dict[str, str] = {}
        self._rested = monotonic()
        self._write(SCENARIO, yaml.safe_dump(dict(scenario), sort_keys=False, allow_unicode=True).encode())

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
            self.weights("leakage", {name: tensor.cpu().numpy() for name, tensor in pictures.items()})

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


def clear(path: Path) -> None:
    """Remove the run folder that is there, if one is.

    Raises:
        ScenarioError: if something else is there.
    """
    if path.exists() and not (path / SCENARIO).exists():
        raise ScenarioError(f"{path} is there already, and is no run folder that could be replaced")
    shutil.rmtree(path, ignore_errors=True)
