"""One table of laws for all that a local step may be made of: sources, objectives, schedules, controls and so on."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedsim import experiment, scenario
from fedsim.data import Dataset, Iid
from fedsim.growth import GROWTH
from fedsim.objectives import OBJECTIVES
from fedsim.probes import PROBES
from fedsim.rng import stream
from fedsim.sources import SOURCES
from fedsim.state import restore, saved
from fedsim.steps import CONTROLS, SCHEDULES
from fedsim.work import ClientState, LocalResult, LocalTask

DIGITS = {
    "seed": 3,
    "until": {"versions": 3},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.3}}}},
    "model": {"mlp": {"hidden": [8]}},
    "fleet": {"clients": 6, "devices": "fedscale"},
    "local": {"steps": 3, "batch": 16, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "1 h"},
}
PGD = {"radius": 0.1, "step": 0.02, "steps": 2}
HEADS = {"model": {"mlp": {"hidden": [8], "further": 64}}}
NORMS = {"model": {"mlp": {"hidden": [8], "norm": "batch"}}}
WALKS = {"data": {"grid_world": {"side": 4, "walks": 40}}, "model": {"mlp": {"hidden": [], "further": 1}}}
LAYERS = {"model": {"mlp": {"hidden": [8], "norm": "layer"}}, "data": {"drifting_digits": {"clean": 1}}}
NOISY = {"data": {"digits": {"partition": {"noisy": {"share": 0.3, "clean": 5}}}}}
TURNS = {"data": {"split_digits": {"trainings": 1}}, "fleet": {"clients": 5, "devices": "fedscale"}}
LETTERS = {
    "data": "test_local_steps:Letters",
    "model": {"transformer": {"width": 8, "layers": 1, "heads": 2, "block": 4, "blocks": 2}},
}
PLAYED = {"data": {"seeded_digits": {"draws": 2, "latent": 4}}, "model": {"gan": {"hidden": [8]}}}


class Letters:
    """Made-up text."""

    partition = Iid()

    def load(self, folders: object = ()) -> Dataset:
        codes = torch.from_numpy(stream(8, "letters").integers(6, size=(300, 13)))
        train, test = codes[:240], codes[240:]
        return Dataset(train[:, :-1], train[:, -1], test[:, :-1], test[:, -1], outputs=6, vocabulary="abcdef")


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "source backpropagation": ({}, {}),
    "source sam": ({"source": "sam"}, {}),
    "source eggroll": ({"source": {"eggroll": {"population": 8, "rank": 2}}}, {}),
    "source combined": ({"source": {"combined": {"combiner": "gcond"}}, "objective": "together"}, HEADS),
    "source sar": (
        {"source": {"sar": {"reliable": 1.0}}, "objective": {"tent": {"since": 1}}, "personal": "norms"},
        LAYERS,
    ),
    "source borep": ({"source": {"borep": {"every": 2}}}, NOISY),
    "source game": ({"source": {"game": {"interaction": -1}}, "objective": "players"}, PLAYED),
    "objective adversarial": ({"objective": {"adversarial": PGD}}, {}),
    "objective trades": ({"objective": {"trades": PGD}}, {}),
    "objective calfat": ({"objective": {"calfat": PGD}}, {}),
    "objective fedrbn": ({"objective": {"fedrbn": PGD | {"share": 0.5}}, "personal": "norms"}, NORMS),
    "objective together": ({"objective": "together"}, HEADS),
    "objective replay": ({"objective": "replay"}, TURNS),
    "objective tent": ({"objective": {"tent": {"since": 1}}, "personal": "norms"}, LAYERS),
    "objective sparse_attention": ({"objective": "sparse_attention"}, LETTERS),
    "objective odice": ({"objective": {"odice": {"rate": 0.5}}}, WALKS),
    "objective players": ({"source": "game", "objective": "players"}, PLAYED),
    "schedule constant": ({"schedule": "constant"}, {}),
    "schedule linear": ({"schedule": {"linear": {"over": "round"}}}, {}),
    "schedule cosine": ({"schedule": {"cosine": {"over": "run"}}}, {}),
    "schedule trapezoid": ({"schedule": {"trapezoid": {"over": "round"}}}, {}),
    "schedule refined": ({"schedule": "refined"}, {}),
    "schedule jump": ({"schedule": {"jump": {"at": 1, "factor": 3}}}, {}),
    "control ghosts": ({"control": "ghosts", "optimizer": {"sgd": {"lr": 9.0}}}, {}),
    "control dal": ({"control": "dal"}, {}),
    "growth norm_test": ({"growth": {"norm_test": {"eta": 0.3, "most": 64}}}, {}),
    "growth inner_product": ({"growth": {"inner_product": {"theta": 0.3, "nu": 0.3, "most": 64}}}, {}),
    "probe continual": ({"probe": "continual"}, TURNS),
    "probe online": ({"probe": "online"}, {}),
    "probe cleaning": ({"probe": "cleaning", "source": "borep"}, NOISY),
    "control clip": ({"control": {"clip": {"length": 0.01}}}, {}),
}
"""What a local step says, and what else has to be so."""

EXACT = {name for name, (_, rest) in CASES.items() if rest in ({}, HEADS, WALKS, NOISY, TURNS)}
"""Dense networks, where nothing of a company is felt at all; for others sums may be taken in another order."""

FAMILIES: dict[str, Mapping[str, Any]] = {
    "source": SOURCES, "objective": OBJECTIVES, "schedule": SCHEDULES, "control": CONTROLS,
    "growth": GROWTH, "probe": PROBES,
}  # fmt: skip


def assembled(name: str) -> experiment.Experiment:
    local, rest = CASES[name]
    [arm] = scenario.read(DIGITS | rest | {"local": {**DIGITS["local"], **local}})
    return experiment.assemble(arm)


def tasks(made: experiment.Experiment, *steps: int) -> list[LocalTask]:
    """Of clients 0, 2, 4, ... so many steps each."""
    return [LocalTask(2 * place, made.params, 1, count, version=1) for place, count in enumerate(steps)]


def same(name: str, one: LocalResult, other: LocalResult) -> None:
    """To the bit, or but for rounding."""
    for left, right in zip(numbers(one), numbers(other), strict=True):
        if name in EXACT:
            assert torch.equal(left, right)
        else:
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def numbers(result: LocalResult) -> list[Tensor]:
    """All that a training yields and leaves."""
    kept = result.kept
    parts = [kept.personal, *kept.own.values(), *kept.steps.values(), *kept.optimizer.values()]
    found = [part for part in parts if isinstance(part, Tensor)]
    return [result.delta, torch.tensor([result.loss, result.square_loss]), *found]


def test_every_one_is_in_the_table() -> None:
    for family, members in FAMILIES.items():
        assert {name.split()[1] for name in CASES if name.startswith(family)} == set(members)


@pytest.mark.parametrize("name", CASES)
def test_a_cohorts_step_is_each_ones_own_whoever_stops_when(name) -> None:
    made = assembled(name)
    company = tasks(made, 3, 0, 1)
    for task, result in zip(company, made.trainer(company), strict=True):
        [alone] = made.trainer([task])
        same(name, alone, result)
        if not task.steps:
            assert not result.delta.any()
    turned = made.trainer(company[::-1])[::-1]
    for result, again in zip(made.trainer(company), turned, strict=True):
        same(name, again, result)


@pytest.mark.parametrize("name", CASES)
def test_what_a_client_keeps_survives_being_written_down(name) -> None:
    """Its next training is the same from what was read back, and another one if anything was kept and is lost."""
    made = assembled(name)
    [task] = tasks(made, 3)
    [first] = made.trainer([task])
    holder, other = Holder(first.kept), Holder(ClientState())
    restore(other, saved(holder))
    later = replace(task, ordinal=2, kept=first.kept)
    [expected], [found] = made.trainer([later]), made.trainer([replace(later, kept=other.kept)])
    assert torch.equal(found.delta, expected.delta)
    [lost] = made.trainer([replace(later, kept=ClientState())])
    pairs = zip(numbers(lost), numbers(expected), strict=False)
    alike = len(numbers(lost)) == len(numbers(expected)) and all(torch.equal(*pair) for pair in pairs)
    assert alike == (not made.trainer.goes_on)
    assert made.trainer.goes_on == bool(len(numbers(first)) > 2)


class Holder:
    def __init__(self, kept: ClientState) -> None:
        self.kept = kept


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_drawn_from_anybody_elses_randomness(name) -> None:
    made = assembled(name)
    state = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    ones = made.trainer(tasks(made, 2, 1))
    random.random()
    torch.rand(3)
    again = made.trainer(tasks(made, 2, 1))
    for one, other in zip(ones, again, strict=True):
        assert torch.equal(one.delta, other.delta)
    random.setstate(state[0])
    torch.random.set_rng_state(state[2])
    made.trainer(tasks(made, 2, 1))
    assert random.getstate() == state[0]
    assert np.array_equal(np.random.get_state()[1], state[1])
    assert torch.equal(torch.random.get_rng_state(), state[2])


@pytest.mark.parametrize("name", CASES)
def test_what_is_asked_for_is_priced_before_anything_is_trained(name) -> None:
    """The null executor, which trains nothing, passes through the same times."""
    made, plain = assembled(name), assembled("source backpropagation")
    assert all(seen > 0 for seen in made.work.seen)
    if not CASES[name][1]:
        dearer = np.array(made.work.seen) / np.array(plain.work.seen)
        assert bool((dearer >= 0.99).all())
