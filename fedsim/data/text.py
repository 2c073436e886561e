"""Text to go on with: which character comes next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedsim.data.dataset import Count, Dataset
from fedsim.data.folders import find
from fedsim.data.partitions import Natural, Partition
from fedsim.errors import ScenarioError


@dataclass(frozen=True)
class Shakespeare:
    """The tiny Shakespeare corpus (Karpathy, 2015) by speaking role: next-character prediction over 65 characters.

    A role's speeches are one text; its first four fifths are for training, the last fifth for testing, and no window
    lies across that border. Roles too short for one training window are left out. Not LEAF's Shakespeare (1,129
    roles, a window at every character, 80 classes), so results are not comparable with it; 80 is its length too.
    """

    partition: Partition = Natural()
    length: Count = 80
    """Characters in a window; the label is the one that follows."""
    stride: Count = 20
    """Characters from the start of a window to the start of the next."""
    roles: Count | None = None
    """Only the so many roles that speak the most; none given: all that are long enough."""

    def load(self, folders: Sequence[Path]) -> Dataset:
        """Windows as int64 (n, length). Raises DataMissing, or ScenarioError if the file has no such windows."""
        texts = _read(find("shakespeare", ["by_role.jsonl"], folders))
        vocabulary = "".join(sorted(set("".join(texts.values()))))
        spoken = {role: _codes(text, vocabulary) for role, text in texts.items()}
        chosen = self._chosen(spoken)
        train = [self._windows(codes[: _border(codes)]) for codes in chosen.values()]
        test = [self._windows(codes[_border(codes) :]) for codes in chosen.values()]
        x, y = _examples(train)
        x_test, y_test = _examples(test)
        groups = np.repeat(np.arange(len(train)), [len(windows) for windows in train])
        return Dataset(x, y, x_test, y_test, len(vocabulary), groups, tuple(chosen), vocabulary)

    def _chosen(self, spoken: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Those roles that have a training window, or the largest of them; largest first."""
        largest = sorted(spoken.items(), key=lambda item: -len(item[1]))
        enough = [(role, codes) for role, codes in largest if _border(codes) > self.length]
        if len(enough) < (self.roles or 1):
            raise ScenarioError(
                f"shakespeare has only {len(enough)} roles with a training window of {self.length} characters,"
                f" not {self.roles or 1}"
            )
        return dict(enough[: self.roles])

    def _windows(self, codes: np.ndarray) -> np.ndarray:
        """Each window with the character that follows, (n, length + 1)."""
        if len(codes) <= self.length:
            return np.empty((0, self.length + 1), dtype=np.int64)
        return np.lib.stride_tricks.sliding_window_view(codes, self.length + 1)[:: self.stride]


def _read(path: Path) -> dict[str, str]:
    """The text of each role: its speeches, one after the other, on lines of their own."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {row["role"]: "\n".join(row["speeches"]) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise ScenarioError(f"{path} is not a list of roles with their speeches: {error!r}") from error


def _codes(text: str, vocabulary: str) -> np.ndarray:
    place = {character: code for code, character in enumerate(vocabulary)}
    return np.array([place[character] for character in text], dtype=np.int64)


def _border(codes: np.ndarray) -> int:
    return len(codes) * 4 // 5


def _examples(windows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    both = torch.from_numpy(np.concatenate(windows))
    return both[:, :-1].contiguous(), both[:, -1].clone()
