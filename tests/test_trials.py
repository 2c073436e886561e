"""Which runs are one algorithm."""

from __future__ import annotations

import pytest
from test_waits import BUFFERED, SERVED

import fedsim
from fedsim.errors import ScenarioError
from fedsim.trials import algorithms, gathered

FAST = {"until": {"versions": 1}}


def test_of_a_grid_seeds_are_not_told_apart(tmp_path) -> None:
    axes = {"way": {"rounds": {}, "buffer": {"aggregator": BUFFERED["aggregator"]}}, "seed": [0, 1, 2]}
    run = fedsim.run(SERVED | FAST | {"compare": axes}, out=tmp_path, picture=False)
    found = algorithms(gathered([run.path]))
    assert [(one.label, list(one.runs)) for one in found] == [("rounds", [0, 1, 2]), ("buffer", [0, 1, 2])]


def test_of_a_list_of_seeds_neither(tmp_path) -> None:
    run = fedsim.run(SERVED | FAST | {"compare": [{"seed": 4}, {"seed": 5}]}, out=tmp_path, picture=False)
    [found] = algorithms(gathered([run.path]))
    assert (found.label, list(found.runs)) == ("scenario", [4, 5])


def test_folders_are_put_together_and_labels_told_apart(tmp_path) -> None:
    paths = [fedsim.run(base | FAST | {"seed": seed}, out=tmp_path, picture=False).path
             for seed in (1, 2) for base in (SERVED, BUFFERED)]  # fmt: skip
    found = algorithms(gathered(paths))
    assert [list(one.runs) for one in found] == [[1, 2], [1, 2]]
    assert len({one.label for one in found}) == 2
    assert all(one.label.startswith("scenario ") for one in found)
    assert {run.scenario["aggregator"].popitem()[0] for run in found[1].runs.values()} == {"fedbuff"}
    with pytest.raises(ScenarioError, match=r"seed 1 of .* is there twice"):
        algorithms(gathered([paths[0], *paths]))
