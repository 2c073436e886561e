"""Local work that falls with the version: what is trained, what it takes, and what the server is told of it agree."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.disclosure import disclosed
from fedsim.errors import ScenarioError
from fedsim.keys import Shrink
from fedsim.trace import TRAIN, UPLOAD
from fedsim.wire.examples import releases
from fedsim.work import LocalTask

SHRINK = {"factor": 0.5, "every": 2, "least": 2}
FALLING = [12, 12, 6, 6, 3, 3, 2, 2]
DIGITS = {
    "seed": 3,
    "until": {"versions": 8},
    "data": {"digits": {"partition": "iid"}},
    "model": "logistic",
    "fleet": {"clients": 4, "devices": {"constant": {"per_example": "1 ms"}}},
    "local": {"steps": 12, "batch": 16, "optimizer": {"sgd": {"lr": 0.1}}, "shrink": SHRINK},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "1 h"},
}


def local(**changes) -> dict:
    return {name: value for name, value in {**DIGITS["local"], **changes}.items() if value is not None}


def assembled(**changes) -> experiment.Experiment:
    [arm] = scenario.read({**{key: value for key, value in DIGITS.items() if key not in changes.get("without", ())},
                           **{key: value for key, value in changes.items() if key != "without"}})  # fmt: skip
    return experiment.assemble(arm)


def run(**changes):
    made = assembled(**changes)
    simulation = made.simulation(Recording())
    simulation.run()
    return made, simulation


def times(simulation, client: int = 0) -> list[int]:
    """Milliseconds of a client's trainings, one after another, up to its first word to somebody after each."""
    rows = [(row[0], row[1]) for row in simulation.trace.of(TRAIN, UPLOAD) if row[2] == client]
    return [(there - here) // 1000 for (here, kind), (there, _) in pairwise(rows) if kind == TRAIN]


def test_it_is_its_formula() -> None:
    for factor, every, least, first in ((0.5, 2, 2, 12), (0.9, 1, 1, 7), (1.0, 3, 1, 5), (0.3, 4, 3, 3)):
        for version in range(40):
            share = Shrink(factor, every, least).share(first, version)
            assert share * first == max(least, round(first * factor ** (version // every)))


def test_it_is_trained_timed_and_told() -> None:
    """A step looks at 16 examples, a millisecond each."""
    heard = []
    made = assembled()
    simulation = made.simulation(Recording())
    take = simulation.aggregator.take
    simulation.aggregator.take = lambda update: heard.append(update) or take(update)
    simulation.run()
    for version, steps in enumerate(FALLING):
        updates = [update for update in heard if update.version == version]
        assert [update.steps for update in updates] == [steps] * 4
        assert {update.numbers.task.steps for update in updates} == {steps}
    assert times(simulation)[:8] == [16 * steps for steps in FALLING]


def test_the_models_are_those_of_so_many_steps() -> None:
    made, simulation = run()
    params = made.params
    for version, steps in enumerate(FALLING):
        results = made.trainer([LocalTask(client, params, version, steps) for client in range(4)])
        weights = torch.tensor(made.work.held, dtype=torch.float64) / sum(made.work.held)
        params = params + sum(weight * result.delta for weight, result in zip(weights, results, strict=True)).float()
    torch.testing.assert_close(simulation.aggregator.params, params, rtol=1e-4, atol=1e-6)


def test_epochs_fall_alike_and_objectives_keep_their_price() -> None:
    attack = {"adversarial": {"radius": 0.1, "step": 0.05, "steps": 3}}
    made, simulation = run(local=local(steps=None, epochs=4, shrink={"factor": 0.5, "every": 1}, objective=attack))
    passes = -(-made.work.held[0] // 16)
    assert [made.work.steps_at(0, version) for version in range(4)] == [4 * passes, 2 * passes, passes, passes]
    assert times(simulation)[:3] == [epochs * passes * 16 * 3 for epochs in (4, 2, 1)]


def test_a_factor_of_one_changes_nothing() -> None:
    still, plain = (run(local=local(shrink=shrink))[1] for shrink in ({"factor": 1.0, "every": 1}, None))
    assert torch.equal(still.aggregator.params, plain.aggregator.params)
    assert still.trace.digest() == plain.trace.digest()


@pytest.mark.parametrize("aggregator", ["fednova", "scaffold", {"fedbuff": {"goal": 2, "concurrency": 3}}])
def test_it_is_the_same_under_every_executor(aggregator) -> None:
    found = [run(aggregator=aggregator, executor=how)[1] for how in ("inline", "stacked", "null")]
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert found[0].trace.digest() == found[1].trace.digest() == found[2].trace.digest()


def test_peers_go_by_their_rounds() -> None:
    _, simulation = run(without=["aggregator"], peers={"gossip": {"mixing": "metropolis"}}, network="ring")
    assert times(simulation)[:7] == [16 * steps for steps in FALLING[:7]]


def test_edges_go_by_their_own_versions() -> None:
    _, simulation = run(network={"tree": {"edges": 2}}, edges={"aggregator": "fedavg", "rounds": 2},
                        until={"versions": 3})  # fmt: skip
    assert times(simulation)[:6] == [16 * steps for steps in FALLING[:6]]


def test_epsilon_goes_by_the_most_steps_there_are() -> None:
    made, simulation = run(local=local(private={"clip": 1.0, "multiplier": 2.0}))
    said = disclosed(made, simulation)["privacy"]["examples"]
    most = max(releases(12, 16, held) for held in made.work.held)
    assert said["rounds"] == max(simulation.ordinals.values()) * most


CODED = {"without": ["aggregator"], "coding": "uncoded"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"local": local(shrink={"factor": 0.5, "every": 1, "least": 13})}, "least is 13, but there are 12 at first"),
     ({"local": local(shrink={"factor": 1.5, "every": 1})}, "factor"),
     ({"local": local(shrink={"factor": 0.5, "every": 0})}, "every"),
     (CODED | {"local": local(steps=1, shrink={"factor": 0.5, "every": 1})}, "local.shrink: a job is one gradient"),
     (CODED | {"local": local(steps=1, shrink=None, objective={"trades": {"radius": 0.1, "step": 0.1}})},
      "local.objective: a job is one gradient")],
)  # fmt: skip
def test_what_makes_no_sense_is_one_line(changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        assembled(**changes)
