"""Axes of a sweep: values of keys, in the file or on the command line, refused like any other value."""

from __future__ import annotations

import re

import pytest
from test_scenario import SMALL

from fedsim.axes import override
from fedsim.errors import ScenarioError
from fedsim.scenario import Arm, read

SWEEP = """sweep:
  local.optimizer.sgd.lr: [0.01, 0.1]
  seed: 0..2
"""


def arms(tmp_path, more: str = "", *overrides: str) -> list[Arm]:
    (path := tmp_path / "x.yaml").write_text(SMALL + more)
    return read(path, overrides)


def test_every_combination_is_a_run_with_its_coordinates(tmp_path) -> None:
    found = arms(tmp_path, SWEEP)
    assert [arm.label for arm in found] == [f"lr_{lr}-seed_{seed}" for lr in ("0.01", "0.1") for seed in (0, 1, 2)]
    assert [(arm.keys.local.optimizer.arguments.lr, arm.keys.seed) for arm in found] == [
        (lr, seed) for lr in (0.01, 0.1) for seed in (0, 1, 2)
    ]
    assert found[-1].coordinates == {"local.optimizer.sgd.lr": "0.1", "seed": "2"}


def test_what_is_said_on_the_command_line_is_the_same(tmp_path) -> None:
    said = arms(tmp_path, "", override("local.optimizer.sgd.lr=0.01,0.1"), override("seed=0..2"))
    assert [(arm.label, arm.digest) for arm in said] == [(arm.label, arm.digest) for arm in arms(tmp_path, SWEEP)]
    assert [arm.keys.local.batch for arm in arms(tmp_path, SWEEP, override("local.batch=5"))] == [5] * 6


def test_a_nested_block_is_the_same(tmp_path) -> None:
    nested = "sweep: {local: {optimizer: {sgd: {lr: [0.01, 0.1]}}}, seed: [0, 1..2]}\n"
    assert [arm.digest for arm in arms(tmp_path, nested)] == [arm.digest for arm in arms(tmp_path, SWEEP)]


def test_whole_choices_and_lists_are_values_too(tmp_path) -> None:
    axes = "aggregator=fedavg,{fedbuff: {goal: 3}}", "model.mlp.hidden=[8],[4, 4]"
    found = arms(tmp_path, "", *map(override, axes))
    assert [arm.keys.aggregator.name for arm in found] == ["fedavg", "fedavg", "fedbuff", "fedbuff"]
    assert [arm.label for arm in found][1:3] == ["aggregator_fedavg-hidden_4_4", "aggregator_fedbuff_goal_3-hidden_8"]


def test_a_sweep_repeats_what_is_compared(tmp_path) -> None:
    compared = "compare: [{aggregator: fedavg}, {aggregator: fedasync}]\n"
    found = arms(tmp_path, compared, override("seed=4,5"))
    assert [arm.label for arm in found] == ["fedavg-seed_4", "fedavg-seed_5", "fedasync-seed_4", "fedasync-seed_5"]
    assert found[2].coordinates == {"compare": "fedasync", "seed": "4"}
    grid = "compare: {timing: {sync: {aggregator: fedavg}, buffer: {}}}\n"
    assert arms(tmp_path, grid, override("seed=4,5"))[-1].coordinates == {"timing": "buffer", "seed": "5"}


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ("local.optimzer.sgd.lr=1,2", r"override 'sweep\.local\.optimzer.*there is no key 'optimzer' here; did you"),
        ("local.optimizer.sgdd.lr=1,2", r"x\.yaml:7: local\.optimizer: .*one of: .*sgd, not .*sgdd"),
        ("local.optimizer=sgdd,{adam: {lr: 1}}", r"override 'sweep.*there is no optimizer 'sgdd' here; did you mean"),
        ("local.optimizer.sgd.lr=0.1,x", r"override 'sweep.*local\.optimizer\.sgd\.lr: .*number.*'x'"),
        ("local.optimizer.sgd.lr=0.1,-1", r"override 'sweep.*local\.optimizer\.sgd\.lr"),
        ("seed.lr=1,2", r"sweep\.seed\.lr: 1 has no key 'lr'"),
        ("seed=1,1", r"sweep\.seed: 1 is there twice"),
        ("until=5,6", r"override 'sweep.*until"),
    ],
)
def test_bad_axes_are_refused_where_they_were_said(tmp_path, axis, said) -> None:
    with pytest.raises(ScenarioError, match=said):
        arms(tmp_path, "", override(axis))


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("sweep: 3\n", r"x\.yaml:10: sweep: expected keys with the values"),
        ("sweep: {}\n", r"x\.yaml:10: sweep: expected keys with the values"),
        ("sweep:\n  seed: []\n", r"x\.yaml:11: sweep\.seed: expected keys with the values"),
        ("sweep:\n  seed: 3..1\n", r"x\.yaml:11: sweep\.seed: expected keys with the values"),
        ("sweep:\n  local.stepz: [1, 2]\n", r"x\.yaml:11: local\.stepz: there is no key 'stepz' here; did you mean st"),
        ("compare: {seed: [0, 1]}\nsweep:\n  seed: [1, 2]\n", r"x\.yaml:12: sweep\.seed: compare has this axis too"),
    ],
)
def test_bad_blocks_are_refused_with_their_line(tmp_path, block, said) -> None:
    with pytest.raises(ScenarioError, match=said):
        arms(tmp_path, block)


def test_an_override_that_every_run_overrules_is_refused(tmp_path) -> None:
    with pytest.raises(ScenarioError, match=r"every run of the sweep has its own; change sweep\.seed"):
        arms(tmp_path, SWEEP, "seed=7")


def test_a_fault_elsewhere_is_not_blamed_on_an_axis(tmp_path) -> None:
    with pytest.raises(ScenarioError, match=r"override 'local\.batch=0': local\.batch"):
        arms(tmp_path, SWEEP, "local.batch=0")


def test_axes_may_name_plug_ins(tmp_path, monkeypatch) -> None:
    (tmp_path / "sweep_rules.py").write_text("from fedsim.aggregators import FedBuff\n\n\nclass Mine(FedBuff): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = arms(tmp_path, "", override("aggregator=fedavg,sweep_rules:Mine"))
    assert [arm.label for arm in found] == ["aggregator_fedavg", "aggregator_sweep_rules_Mine"]


@pytest.mark.parametrize("name", ["../../out", "a/b", "/tmp", "..", ".hidden"])
def test_a_name_that_leads_out_of_the_run_folder_is_refused(tmp_path, name) -> None:
    with pytest.raises(ScenarioError, match=rf"^\S*x.yaml:10: compare: '{re.escape(name)}' is no name of a folder"):
        arms(tmp_path, f"compare: {{way: {{'{name}': {{}}, other: {{seed: 2}}}}}}\n")


def test_two_of_one_name_are_refused(tmp_path) -> None:
    ways = "one: {x-y: {seed: 1}, x: {seed: 2}}, other: {z: {}, y-z: {learning_seed: 2}}"
    with pytest.raises(ScenarioError, match=r"x\.yaml:10: compare: two runs are called 'x-y-z'; give them other names"):
        arms(tmp_path, f"compare: {{{ways}}}\n")


def test_long_names_are_cut_and_stay_apart(tmp_path) -> None:
    found = arms(tmp_path, f"compare: {{way: {{{'ä' * 300}: {{}}, {'ä' * 301}: {{seed: 2}}}}}}\n")
    assert all(150 < len(arm.label.encode()) <= 200 for arm in found)
    assert len({arm.label for arm in found}) == 2
