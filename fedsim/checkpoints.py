"""Checkpoints on disk: whole or not there, of known origin, and never code."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

FOLDER = "checkpoint"
"""Of a run folder."""

KEPT = 2
"""So many are there at a time: if the newest is damaged, there is the one before."""

NAME = re.compile(r"(\d{12})-([0-9a-f]{64})\.safetensors")


class Damaged(ValueError):
    """A file is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands: plain facts, and arrays that they name."""

    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def turns(self) -> int:
        """How many things had happened."""
        return self.facts["turns"]


@dataclass(frozen=True)
class Checkpoints:
    """Those of a run, in a folder. A file's name is the number of turns, and the SHA-256 of its content."""

    folder: Path

    def write(self, checkpoint: Checkpoint) -> int:
        """One more: written under another name, synced and renamed; older ones but one are removed. Its bytes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.asarray(array, order="C") for name, array in checkpoint.arrays.items()}
        data = save(arrays, {"facts": json.dumps(dict(checkpoint.facts))})
        path = self.folder / f"{checkpoint.turns:012d}-{sha256(data).hexdigest()}.safetensors"
        unfinished = self.folder / "unfinished"
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
        _sync(self.folder)
        for old in [old for old in self.files()[KEPT:] if old != path]:
            old.unlink()
        return len(data)

    def files(self) -> list[Path]:
        """The newest first."""
        found = self.folder.glob("*.safetensors") if self.folder.exists() else ()
        return sorted((path for path in found if NAME.fullmatch(path.name)), reverse=True)

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest that is whole, if there is any; and what is wrong with those that are newer."""
        faults: list[str] = []
        for path in self.files():
            try:
                return read(path), faults
            except Damaged as fault:
                faults.append(str(fault))
        return None, faults

    def clear(self) -> None:
        """Nobody needs them any more."""
        shutil.rmtree(self.folder, ignore_errors=True)


def read(path: Path) -> Checkpoint:
    """A checkpoint file.

    Raises:
        Damaged: if it is not what was written, and why.
    """
    data, name = path.read_bytes(), NAME.fullmatch(path.name)
    if name is None or sha256(data).hexdigest() != name[2]:
        raise Damaged(f"{path.name[:12]}: it is not what its name says: cut off, or changed, at {len(data)} bytes")
    try:
        arrays = load(data)
        length = int.from_bytes(data[:8], "little")
        facts = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["facts"])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{path.name[:12]}: it is no checkpoint: {error}") from None
    if not isinstance(facts, dict) or facts.get("turns") != int(name[1]):
        raise Damaged(f"{path.name[:12]}: it is no checkpoint: it does not say how far the run had come")
    return Checkpoint(facts, arrays)


def _sync(folder: Path) -> None:
    """Let the names of its files outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
