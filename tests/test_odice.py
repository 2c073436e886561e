"""ODICE: the dual's residuals, the orthogonal combiner, walks on a grid, and how far a policy walks."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import K, dense, numbers, stacked
from torch import Tensor
from torch.func import functional_call
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.combiners import Orthogonal
from fedsim.data.grid_world import MOVES, GridWorld, after
from fedsim.errors import ScenarioError
from fedsim.exams.paths import Paths, walked
from fedsim.gradients import ClosedForm, Vmapped
from fedsim.objectives import Odice, Step
from fedsim.objectives.odice import conjugate
from fedsim.objectives.term import slopes
from fedsim.sources import Combined
from fedsim.vector import Layout
from fedsim.work import LocalTask

NEAR = {"rtol": 1e-9, "atol": 1e-11}
CELLS, BATCH = 9, 5
DATA = GridWorld(seed=4, side=3, walks=20, good=0.5, patience=6)


# The data -------------------------------------------------------------------------------------------------------------


def test_what_follows_an_example_is_where_its_move_leads() -> None:
    dataset = DATA.load()
    parts = DATA.partition.split(dataset, 4, seed=1)
    cells, moves = dataset.x.argmax(1).tolist(), dataset.y.tolist()
    held = np.concatenate(parts.indices)
    assert len(set(held)) == len(held) == len(dataset) - 20, "all but the ends of 20 walks"
    for row in held:
        row_now, column = divmod(cells[row], 3)
        there = np.clip(np.array([row_now, column]) + MOVES[moves[row]], 0, 2)
        assert cells[row + 1] == there[0] * 3 + there[1]
        assert cells[row] != 8, "nobody moves on from the end"


def test_good_walks_are_shortest_and_come_first() -> None:
    walks = list(DATA._recorded())
    for number, (cells, moves) in enumerate(walks):
        assert len(cells) == len(moves)
        if number < 10:
            assert cells[-1] == 8
            assert len(cells) - 1 == 4 - sum(divmod(int(cells[0]), 3))
        else:
            assert cells[-1] == 8 or len(cells) == 7
    first = replace(DATA, deal="quality").partition.split(DATA.load(), 4, seed=1)
    ends = np.cumsum([len(cells) for cells, _ in walks])
    assert max(first.indices[0]) < ends[4]
    again = GridWorld(seed=4, side=3, walks=20, good=0.5, patience=6).load()
    assert torch.equal(again.x, DATA.load().x)
    assert not torch.equal(replace(DATA, seed=5).load().y, DATA.load().y)


def test_a_wall_stops_whoever_moves_against_it() -> None:
    assert [after(0, move, 3) for move in range(4)] == [3, 1, 0, 0]
    assert [after(8, move, 3) for move in range(4)] == [8, 8, 5, 7]


def test_paths_are_counted() -> None:
    """Of the best policy none is extra; of one that always goes down, whoever is in the last column arrives."""
    dataset = DATA.load()
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(CELLS, 5))
    named = {"1.weight": torch.zeros(5, CELLS), "1.bias": torch.zeros(5)}
    best = named | {"1.weight": torch.nn.functional.one_hot(torch.tensor([*dataset.y_test.tolist(), 0]), 5).T.float()}
    assert Paths().grade(module, best, dataset) == {"extra_steps": 0.0, "arrived": 1.0}
    down = named | {"1.bias": torch.tensor([1.0, 0, 0, 0, 9])}
    found = Paths().grade(module, down, dataset)
    assert found["arrived"] == 2 / 8
    needed = [4, 3, 2, 3, 2, 1, 2, 1]
    taken = [9, 9, 2, 9, 9, 1, 9, 9]
    assert found["extra_steps"] == pytest.approx(np.mean(np.subtract(taken, needed)))
    through_all = [1, 1, 0, 0, 3, 3, 1, 1]
    assert walked(through_all, 0, 3) == 8, "the longest way that is no circle"


# The combiner ---------------------------------------------------------------------------------------------------------


def test_what_yields_is_orthogonal_to_what_stays() -> None:
    rows = numbers(4, 6).double()
    found = 4 * Orthogonal().combine(rows, range(4), 0, {})
    left = found - rows[0] - rows[2] - rows[3]
    assert float(left @ rows[0]) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(left, rows[1] - (rows[0] @ rows[1]) / (rows[0] @ rows[0]) * rows[0], **NEAR)
    places = [2, 1, 3, 0]
    torch.testing.assert_close(4 * Orthogonal().combine(rows[places], places, 0, {}), found, **NEAR)
    turned = 4 * Orthogonal(to=1, of=0).combine(rows, range(4), 0, {})
    assert float((turned - rows[1:].sum(0)) @ rows[1]) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="nothing that is orthogonal to itself"):
        Orthogonal(to=1, of=1)


def test_what_is_orthogonal_already_stays_and_what_is_parallel_goes() -> None:
    rows = torch.eye(3).double()
    torch.testing.assert_close(Orthogonal().combine(rows, range(3), 0, {}), rows.mean(0), **NEAR)
    against = torch.stack((rows[0], -0.7 * rows[0], rows[2]))
    torch.testing.assert_close(3 * Orthogonal().combine(against, range(3), 0, {}), rows[0] + rows[2], **NEAR)
    nothing = torch.stack((torch.zeros(3), *rows[1:])).double()
    torch.testing.assert_close(Orthogonal().combine(nothing, range(3), 0, {}), nothing.mean(0), **NEAR)


# The objective --------------------------------------------------------------------------------------------------------


def test_the_conjugate_is_pearsons() -> None:
    y = torch.tensor([0.0, -2.0, -5.0, 2.0], dtype=torch.float64, requires_grad=True)
    values = conjugate(y)
    torch.testing.assert_close(values.detach(), torch.tensor([0.0, -1.0, -1.0, 3.0]).double())
    torch.testing.assert_close(
        torch.autograd.grad(values.sum(), y)[0], torch.tensor([1.0, 0.0, 0.0, 2.0]).double(), **NEAR
    )
    grid = torch.linspace(0, 30, 30001).double()
    for point in (-1.5, 0.3, 4.0):  # sup over w >= 0 of w y - (w - 1)^2
        assert float(conjugate(torch.tensor(point))) == pytest.approx(
            float((grid * point - (grid - 1) ** 2).max()), abs=1e-6
        )


def step_of(module, memory=None) -> Step:
    dataset, layout, params = DATA.load(), Layout.of(module), stacked(module)
    held = np.concatenate(DATA.partition.split(dataset, 1, 0).indices)
    rows = torch.from_numpy(held[: K * BATCH]).view(K, BATCH)
    tasks = [LocalTask(k, layout.join({name: part[k] for name, part in params.items()}), 2, 5) for k in range(K)]
    x, y = dataset.x.double(), dataset.y
    return Step(ClosedForm(module), params, x[rows], y[rows], None, tasks, 3, 1, layout, rows,
                lambda rows: (x[rows], y[rows]), memory or [{} for _ in range(K)])  # fmt: skip


def defined(module, step: Step, objective: Odice, k: int) -> tuple[list[Tensor], Tensor]:
    """Gradients of the four parts of one client's loss, and V', by autograd and the formulas of the paper."""
    flat = step.tasks[k].params.clone().requires_grad_()
    last = step.memory[k].get("average", flat.detach())
    slow = last + objective.rate * (flat.detach() - last)

    def scores(params: Tensor, x: Tensor) -> Tensor:
        return functional_call(module, step.layout.unflatten(params), (x,))

    after_them = step.look_up(step.rows[k] + 1)[0]
    goes_on = objective.gamma * (after_them.argmax(1) != CELLS - 1).double()
    value, then = scores(flat, step.x[k])[:, -1], scores(flat, after_them)[:, -1]
    ahead = -1 + goes_on * scores(slow, after_them)[:, -1] - value
    back = -1 + goes_on * then - scores(slow, step.x[k])[:, -1]
    w = (ahead / 2 + 1 if objective.weights == "paper" else ahead).clamp(0, 100).detach()
    log_chance = scores(flat, step.x[k])[:, :-1].log_softmax(1)[torch.arange(BATCH), step.y[k]]
    parts = [
        objective.lam * conjugate(ahead).mean(), objective.lam * objective.eta * conjugate(back).mean(),
        (1 - objective.lam) * value.mean(), -(w * log_chance).mean(),
    ]  # fmt: skip
    return [torch.autograd.grad(part, flat, retain_graph=True)[0] for part in parts], slow


@pytest.mark.parametrize("weights", ["paper", "code"])
@pytest.mark.parametrize("remembered", [False, True])
def test_its_gradients_are_the_papers(weights, remembered) -> None:
    module, objective = dense(CELLS, 6, 5).double(), Odice(lam=0.7, eta=0.8, rate=0.1, weights=weights)
    size = Layout.of(module).size
    memory = [{"average": numbers(size).double()} for _ in range(K)] if remembered else None
    step = step_of(module, memory)
    expected = [defined(module, step, objective, k) for k in range(K)]
    terms = objective.terms(step)
    assert [term.name for term in terms] == ["forward", "backward", "linear", "policy"]
    for source in (ClosedForm(module), Vmapped(module)):
        for place, term in enumerate(terms):
            grads = term.weight * step.layout.join(term.slopes(source, step.params)[0])
            torch.testing.assert_close(grads, torch.stack([parts[place] for parts, _ in expected]), **NEAR)
    for own, (_, slow) in zip(step.memory, expected, strict=True):
        torch.testing.assert_close(own["average"], slow, **NEAR)


def test_the_orthogonal_gradient_is_odices() -> None:
    module, objective = dense(CELLS, 6, 5).double(), Odice()
    expected = []
    for k in range(K):
        (ahead, back, linear, policy), _ = defined(module, step_of(module), objective, k)
        expected.append(ahead + back - (ahead @ back) / (ahead @ ahead) * ahead + linear + policy)
    step = step_of(module)
    found, _ = Combined(Orthogonal()).gradients(step, objective.terms(step))
    torch.testing.assert_close(step.layout.join(found), torch.stack(expected), **NEAR)


def test_without_eta_it_is_the_semi_gradient() -> None:
    module, objective = dense(CELLS, 6, 5).double(), Odice(eta=0.0)
    step = step_of(module)
    terms = objective.terms(step)
    semi = slopes(step.source, step.params, [term for term in terms if term.name != "backward"])[0]
    both = (slopes(step.source, step.params, terms)[0], Combined(Orthogonal()).gradients(step, terms)[0])
    for found in both:
        torch.testing.assert_close(step.layout.join(found), step.layout.join(semi), **NEAR)


# In a scenario --------------------------------------------------------------------------------------------------------

WALKS = {
    "seed": 2,
    "until": {"versions": 3},
    "data": {"grid_world": {"side": 4, "walks": 40, "good": 0.5, "patience": 8}},
    "model": {"mlp": {"hidden": [8], "further": 1}},
    "fleet": {"clients": 5, "devices": "fedscale"},
    "local": {"steps": 4, "batch": 8, "optimizer": {"adam": {"lr": 0.05}}, "objective": {"odice": {"rate": 0.5}},
              "source": {"combined": {"combiner": "orthogonal"}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "1 h", "exam": "paths"},
}  # fmt: skip


def assembled(**changes) -> experiment.Experiment:
    [arm] = scenario.read(WALKS | changes)
    return experiment.assemble(arm)


def test_company_does_not_count_and_averages_stay_with_clients() -> None:
    made = assembled()
    tasks = [LocalTask(client, made.params, 1, steps) for client, steps in ((0, 4), (2, 1), (3, 4))]
    state, numpys = random.getstate(), np.random.get_state()[1].copy()
    torchs = torch.random.get_rng_state()
    together = made.trainer(tasks)
    for task, result in zip(tasks, together, strict=True):
        [alone] = made.trainer([task])
        assert torch.equal(alone.delta, result.delta)
        assert torch.equal(alone.kept.own["average"], result.kept.own["average"])
        later, fresh = replace(task, kept=result.kept, ordinal=2, steps=4), replace(task, ordinal=2, steps=4)
        same = torch.equal(made.trainer([later])[0].delta, made.trainer([fresh])[0].delta)
        assert same == (task.steps == 1), "before its first step the average is where the client is"
    assert random.getstate() == state
    assert np.array_equal(np.random.get_state()[1], numpys)
    assert torch.equal(torch.random.get_rng_state(), torchs)


@pytest.mark.parametrize("aggregator", [{"fedavg": {"cohort": "all"}}, {"fedbuff": {"concurrency": 4, "goal": 2}}])
def test_any_server_learns_the_way_whatever_the_executor(aggregator) -> None:
    found = []
    for kind in ("inline", "stacked"):
        simulation = assembled(aggregator=aggregator, executor=kind, until={"versions": 30}).simulation(Recording())
        simulation.run()
        found.append(simulation)
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    rows = found[0].progress.rows
    assert rows[-1]["extra_steps"] < rows[0]["extra_steps"] / 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"model": "logistic"}, "gives 4 scores, where 5 are read, 1 of them beside outputs"),
     ({"data": "digits", "evaluate": {"every": "1 h"}}, "odice learns from walks"),
     ({"data": "digits", "model": "logistic", "local": {**WALKS["local"], "objective": None}}, "paths are walked on"),
     ({"fleet": {"clients": 41, "devices": "fedscale"}}, "41 clients share 40 walks")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        assembled(**changes)
