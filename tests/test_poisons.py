"""Clients that learn from poison: what they are shown is what papers say, and what it does is measured."""

from __future__ import annotations

import pytest
import torch
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.attacks.liars import Liars, Poisoning
from fedsim.attacks.poisons import Backdoor, LabelFlip
from fedsim.errors import ScenarioError
from fedsim.work import LocalTask

DIGITS = {
    "seed": 3,
    "until": {"versions": 30},
    "data": {"digits": {"partition": "iid"}},
    "model": {"mlp": {"hidden": [32]}},
    "fleet": {"clients": 10, "devices": "fedscale"},
    "local": {"steps": 5, "batch": 16, "optimizer": {"sgd": {"lr": 0.3}}},
    "aggregator": {"fedavg": {"cohort": "all", "weights": "uniform"}},
    "evaluate": {"every": "1 h"},
}


def run(adversaries: dict | None, **changes):
    [arm] = scenario.read(DIGITS | ({"adversaries": adversaries} if adversaries else {}) | changes)
    made = experiment.assemble(arm)
    simulation = made.simulation(Recording())
    simulation.run()
    return simulation


def last(adversaries: dict | None, **changes) -> dict:
    return run(adversaries, **changes).progress.rows[-1]


# What they are shown --------------------------------------------------------------------------------------------------


def test_labels_are_flipped() -> None:
    x, y = torch.zeros(10, 2), torch.arange(10)
    assert LabelFlip(10).spoiled(x, y)[1].tolist() == list(range(9, -1, -1))
    assert LabelFlip(10, source=3, target=7).spoiled(x, y)[1].tolist() == [0, 1, 2, 7, 4, 5, 6, 7, 8, 9]
    shown, wanted = LabelFlip(10, source=3, target=7).aim(x, y)
    assert (len(shown), wanted.tolist()) == (1, [7])
    assert len(LabelFlip(3).aim(x[:3], y[:3])[0]) == 2, "the class in the middle stays"


@pytest.mark.parametrize("shape", [(2, 8, 8), (8, 8), (12,)])
def test_a_backdoor_marks_a_part_and_nothing_else(shape) -> None:
    """Pictures with channels, without, and mere features; what was given is not written to."""
    x, y = torch.zeros(5, *shape), torch.arange(5)
    marked, labels = Backdoor(10, target=9, part=0.5, size=2, value=0.7).spoiled(x, y)
    assert labels.tolist() == [9, 9, 9, 3, 4]
    assert not x.any()
    assert not marked[3:].any()
    corner = marked[0][..., -2:, -2:] if len(shape) > 1 else marked[0][-2:]
    assert bool((corner == torch.tensor(0.7)).all())
    assert int((marked[0] != 0).sum()) == corner.numel()
    shown, wanted = Backdoor(10, target=4).aim(x, y)
    assert (len(shown), wanted.tolist()) == (4, [4] * 4)


def test_liars_alone_are_spoiled_and_only_when_they_strike() -> None:
    x, y = torch.zeros(3, 4, 2), torch.ones(3, 4, dtype=torch.int64)
    tasks = [LocalTask(client, torch.zeros(0), 0, 1, version=version) for client, version in ((0, 5), (1, 4), (1, 5))]
    shown, labels = Poisoning(Liars(frozenset({1}), since=5), LabelFlip(10)).spoiled(x, y, tasks)
    assert labels.tolist() == [[1] * 4, [1] * 4, [8] * 4]
    assert shown.shape == x.shape
    assert y.eq(1).all()


# In a scenario --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", ["label_flip", "backdoor"])
@pytest.mark.parametrize("model", [DIGITS["model"], {"cnn_group": {"channels": [8]}}])
def test_poison_is_the_same_under_every_executor(poison, model) -> None:
    changes = {"until": {"versions": 3}, "model": model}
    found = [run({"poison": poison, "share": 0.3}, executor=kind, **changes) for kind in ("inline", "stacked", "null")]
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert found[0].trace.digest() == found[1].trace.digest() == found[2].trace.digest()
    assert not torch.equal(found[0].aggregator.params, run(None, **changes).aggregator.params)


def test_a_backdoor_opens_and_accuracy_does_not_show_it() -> None:
    """Success is measured where it was never trained: on test pictures of other classes with the trigger."""
    clean = last(None)
    assert "attack_success" not in clean
    none = last({"poison": "backdoor", "share": 0.0})
    hidden = last({"poison": "backdoor", "share": 0.3})
    assert none["accuracy"] == clean["accuracy"]
    assert none["attack_success"] < 0.1
    assert hidden["attack_success"] > 0.5
    assert hidden["accuracy"] > clean["accuracy"] - 0.05


def test_model_replacement_needs_one_client_and_a_norm_bound_stops_it() -> None:
    """A tenth of the clients, whose change is scaled by their number (Bagdasaryan et al.), when others are calm."""
    one = {"poison": "backdoor", "share": 0.1, "since": 25}
    weak, strong = last(one), last(one | {"lie": {"scaled": {"factor": 10.0}}})
    bound = last(one | {"lie": {"scaled": {"factor": 10.0}}}, defence={"norm_bound": {"radius": 0.5}})
    assert strong["attack_success"] > 0.9
    assert max(weak["attack_success"], bound["attack_success"]) < 0.3
    assert bound["accuracy"] > 0.9


def test_a_flip_of_one_class_harms_that_class() -> None:
    pair = {"poison": {"label_flip": {"source": 3, "target": 8}}}
    assert last(pair | {"share": 0.0})["attack_success"] < 0.1
    assert last(pair | {"share": 0.5})["attack_success"] > 0.4


def test_foolsgold_closes_a_door_that_sybils_open() -> None:
    """Honest clients have data of their own (non-IID), as there; sybils all push the same way."""
    data = {"digits": {"partition": {"dirichlet": {"alpha": 0.3}}}}
    sybils = {"poison": "backdoor", "lie": "sybils", "share": 0.4}
    bare, gold = last(sybils, data=data), last(sybils, data=data, defence="foolsgold")
    assert bare["attack_success"] > 0.8
    assert bare["lies_heard"] == 1
    assert gold["attack_success"] < 0.2
    assert gold["lies_heard"] < 0.1
    assert gold["accuracy"] > 0.75


def test_free_riders_are_heard_and_slow_everybody_down() -> None:
    clean, riders = last(None), last({"lie": "free_rider", "share": 0.5, "timing": {"pace": {"factor": 0}}})
    assert riders["loss"] > clean["loss"]
    assert riders["lies_heard"] == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"adversaries": {"share": 0.1}}, "needs a lie, a poison or a timing"),
     ({"adversaries": {"share": 0.1, "poison": {"backdoor": {"target": 10}}}}, "classes are 0 to 9"),
     ({"adversaries": {"share": 0.1, "poison": {"label_flip": {"source": 3}}}}, "both source and target"),
     ({"adversaries": {"share": 0.1, "poison": "bakdoor"}}, "did you mean backdoor"),
     ({"adversaries": {"share": 0.1, "poison": "label_flip"},
       "data": {"points": {"clients": 10, "dimension": 3, "spread": 1.0}}}, "poison: these data have no classes")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        [experiment.assemble(arm) for arm in scenario.read(DIGITS | changes)]
