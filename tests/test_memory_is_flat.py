"""A run of many rounds holds no more in the end than after a few: no tensor, no object, no open file."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass

import pytest
import torch
from kills import among_peers, by_code, of
from remembering import EDGES, SGD

from fedsim import conduct, experiment, scenario
from fedsim.keeping import Keeper
from fedsim.progress import Progress

EARLY, LATE = 100, 500
LONG = {"until": {"versions": LATE}, "evaluate": {"every": "10000 h"}}
QUICK = {"steps": 1, "batch": 4, "optimizer": SGD}
CASES = {
    "fedbuff": of("fedbuff", QUICK | {"optimizer_state": "kept"}, **LONG),
    "fedavg": of("fedavg", QUICK, with_={"cohort": 4, "goal": 3}, **LONG),
    "fedstale": of("fedstale", QUICK, with_={"memory": "disk"}, **LONG),
    "edges": of("fedavg", QUICK, **EDGES, **LONG),
    "gossip": among_peers("gossip", local=QUICK, **LONG),
    "adpsgd": among_peers("adpsgd", local=QUICK, **LONG),
    "msgc": by_code("msgc", **LONG),
}


@dataclass
class Held:
    """What there is."""

    vectors: float
    """Numbers in all tensors that are alive, in models."""
    objects: int
    files: int

    @classmethod
    def now(cls, size: int) -> Held:
        """With models of this size."""
        gc.collect()
        everything = gc.get_objects()
        tensors = [thing for thing in everything if type(thing) is torch.Tensor]
        return cls(sum(map(torch.numel, tensors)) / size, len(everything), len(os.listdir("/proc/self/fd")))


class Counting(Keeper):
    """Counts twice."""

    found: list[Held]
    size: int

    def look(self, progress: Progress) -> None:
        """At two versions."""
        if progress.version >= (EARLY, LATE - 1, LATE + 1)[len(self.found)]:
            self.found.append(Held.now(self.size))


@pytest.mark.parametrize("name", CASES)
def test_what_is_held_does_not_grow(tmp_path, monkeypatch, name) -> None:
    [arm] = scenario.read(CASES[name])
    made = experiment.assemble(arm)
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(Counting, "found", [], raising=False)
    monkeypatch.setattr(Counting, "size", made.layout.size, raising=False)
    monkeypatch.setattr(conduct, "Keeper", Counting)
    conduct.conduct(made, tmp_path / "run")
    early, late = Counting.found
    rounds = LATE - 1 - EARLY
    assert late.vectors < early.vectors + rounds / 10
    assert late.objects < early.objects + rounds
    assert late.files == early.files
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
