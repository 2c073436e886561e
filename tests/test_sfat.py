"""SFAT: the smallest losses count 1 + alpha, the others 1 - alpha."""

from __future__ import annotations

import pytest
import torch
from servers import SIZE, Driver, delta, roster, start
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.aggregators import SFAT, FedAvg
from fedsim.disclosure import disclosed
from fedsim.errors import ScenarioError
from fedsim.work import LocalResult, LocalTask, Update

LOSSES = [0.9, 0.2, 0.5, 1.4]
EXAMPLES = [10, 30, 20, 40]
DIGITS = {
    "seed": 3,
    "until": {"versions": 3},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.3}}}},
    "model": "logistic",
    "fleet": {"clients": 4, "devices": "fedscale"},
    "local": {"steps": 3, "batch": 16, "optimizer": {"sgd": {"lr": 0.1}},
              "objective": {"adversarial": {"radius": 0.1, "step": 0.05, "steps": 2}}},
    "aggregator": {"sfat": {"cohort": "all", "alpha": 0.4, "lifted": 2}},
    "evaluate": {"every": "1 h"},
}  # fmt: skip


def moved(losses=LOSSES, make=SFAT, **arguments) -> torch.Tensor:
    """How far a step of four clients has gone."""
    driver = Driver(make(start(), roster(), cohort=4, **arguments), 4)
    for client in (2, 0, 3, 1):
        numbers = LocalResult(delta(client), loss=losses[client])
        driver.busy.pop(client)
        driver.act(driver.aggregator.receive(Update(client, 0, EXAMPLES[client], 1, 1, numbers)))
    assert driver.aggregator.version == 1
    return driver.aggregator.params - start()


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [({"alpha": 0.5, "lifted": 1}, [10 * 0.5, 30 * 1.5, 20 * 0.5, 40 * 0.5]),
     ({"alpha": 0.5, "lifted": 2}, [10 * 0.5, 30 * 1.5, 20 * 1.5, 40 * 0.5]),
     ({"alpha": 0.5, "lifted": 1, "weights": "uniform"}, [0.5, 1.5, 0.5, 0.5]),
     ({}, [10, 30 * 1.4, 20, 40]),  # the authors' pri, and what it does to whoever is in front
     ({"alpha": 0.0}, EXAMPLES), ({"alpha": 0.9, "lifted": 4}, EXAMPLES), ({"alpha": 0.9, "lifted": 9}, EXAMPLES)],
)  # fmt: skip
def test_a_step_is_the_slackened_mean(arguments, weights) -> None:
    expected = sum(weight * delta(client) for client, weight in enumerate(weights)) / sum(weights)
    torch.testing.assert_close(moved(**arguments), expected)


def test_without_slack_it_is_fedavg_to_the_last_bit() -> None:
    assert torch.equal(moved(alpha=0.0, weights="uniform"), moved(make=FedAvg, weights="uniform"))


def test_whoever_is_equal_goes_by_number() -> None:
    assert torch.equal(moved([1.0, 1.0, 1.0, 1.0], alpha=0.5), moved([0.0, 1.0, 1.0, 1.0], alpha=0.5))


def test_its_steps_are_no_combination_that_is_known_without_losses() -> None:
    aggregator = SFAT(start(), roster(), cohort=4)
    assert not aggregator.linear
    assert aggregator.expected is None
    assert len(aggregator.params) == SIZE


def run(**changes):
    [arm] = scenario.read(DIGITS | changes)
    made = experiment.assemble(arm)
    simulation = made.simulation(Recording())
    simulation.run()
    return made, simulation


def test_what_counts_is_the_adversarial_loss() -> None:
    made, simulation = run(until={"versions": 1})
    results = made.trainer([LocalTask(client, made.params, 0, 3) for client in range(4)])
    weights = torch.tensor(made.work.held, dtype=torch.float64)
    in_front = sorted(range(4), key=lambda client: results[client].loss)[:2]
    weights *= torch.tensor([1.4 if client in in_front else 0.6 for client in range(4)])
    expected = sum(weight * result.delta for weight, result in zip(weights / weights.sum(), results, strict=True))
    torch.testing.assert_close(simulation.aggregator.params - made.params, expected.float(), rtol=1e-4, atol=1e-6)


def test_losses_that_the_server_reads_are_not_covered_by_any_epsilon() -> None:
    private = {**DIGITS["local"], "private": {"clip": 1.0, "multiplier": 2.0}}
    said = disclosed(*run(local=private))["privacy"]["examples"]
    assert said == {"refused": "no epsilon where clients are selected or weighted by their losses, which get no noise"}


def test_it_needs_clients_that_have_a_loss() -> None:
    [arm] = scenario.read(DIGITS | {"network": {"tree": {"edges": 2}}, "edges": {"aggregator": "fedavg"}})
    with pytest.raises(ScenarioError, match="aggregator: this one weights clients by their losses; its clients are"):
        experiment.assemble(arm)
