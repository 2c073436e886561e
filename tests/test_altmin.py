"""Matrix completion: exact where all is known, the same whoever holds which rows, and as robust as the paper says."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.answers.normal_equations import NormalEquations
from fedsim.answers.regression import Exact, Sketched
from fedsim.data import Iid
from fedsim.data import LowRank as Matrix
from fedsim.errors import ScenarioError
from fedsim.models import MODELS
from fedsim.models.low_rank import ASKED, KNOWN, VALUE, LowRank, regressed
from fedsim.rng import stream
from fedsim.trace import ARRIVE, TRAIN
from fedsim.vector import total
from fedsim.wire.codec import generator
from fedsim.work import LocalTask

N, RANK = 60, 3
TREE = "network={tree: {edges: 2}}"
SMALL = {
    "seed": 5,
    "until": {"versions": 8},
    "data": {"low_rank": {"rows": 90, "columns": N, "rank": RANK, "observed": 0.4}},
    "model": {"low_rank": {"rank": RANK}},
    "fleet": {"clients": 7, "devices": {"constant": {"per_example": "1 ms"}}},
    "local": {"steps": 1, "optimizer": {"sgd": {"lr": 1.0}}},
    "aggregator": {"altmin": {"cohort": "all"}},
    "evaluate": {"every": "1 h"},
}


def assembled(*overrides: str) -> Any:
    [arm] = scenario.read(SMALL, overrides)
    return experiment.assemble(arm)


def end(*overrides: str) -> Tensor:
    """V in the end, (N, RANK)."""
    simulation = assembled(*overrides).simulation(Recording())
    simulation.run()
    return simulation.aggregator.params.view(N, -1)


def error(*overrides: str) -> float:
    """Relative, on what is held out."""
    whole = assembled(*overrides)
    simulation = whole.simulation(Recording())
    simulation.run()
    return sqrt(2 * whole.evaluator(simulation.aggregator.params).metrics["loss"])


def projector(factor: Tensor) -> Tensor:
    """On the span of its columns."""
    q = torch.linalg.qr(factor.double()).Q
    return q @ q.T


def regression(rows: int = 40, rank: int = RANK, share: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """V, and values and which are known of rows that V does not quite explain, float64."""
    draw = stream(1, "regression")
    factor = torch.from_numpy(np.linalg.qr(draw.standard_normal((N, rank)))[0])
    known = torch.from_numpy((draw.random((rows, N)) < share).astype(float))
    values = torch.from_numpy(draw.standard_normal((rows, N))) * known
    return factor, values, known


def one_by_one(factor: Tensor, values: Tensor, known: Tensor) -> Tensor:
    """Each row by lstsq on what is known."""
    solved = [torch.linalg.lstsq(factor[k > 0], v[k > 0]).solution for v, k in zip(values, known, strict=True)]
    return torch.stack(solved)


# Regressions ----------------------------------------------------------------------------------------------------------


def test_rows_are_least_squares_on_what_is_known() -> None:
    factor, values, known = regression()
    torch.testing.assert_close(regressed(factor, values, known), one_by_one(factor, values, known))


def test_of_too_few_entries_the_shortest_row_is_taken() -> None:
    factor, values, known = regression(rows=6)
    known[:, RANK - 1 :] = 0
    values = values * known
    shortest = [torch.linalg.pinv(factor * k.unsqueeze(1)) @ v for v, k in zip(values, known, strict=True)]
    torch.testing.assert_close(regressed(factor, values, known), torch.stack(shortest))


@pytest.mark.parametrize("start", ["zero", "sketch"])
def test_a_sketch_that_loses_nothing_makes_one_step_of_1_exact(start) -> None:
    factor, values, known = regression()
    found = Sketched(rows=N, iterations=1, start=start).solve(factor, values, known, generator(1, "sketch"))
    torch.testing.assert_close(found, one_by_one(factor, values, known))


def test_from_the_sketch_alone_a_lossless_one_needs_no_step() -> None:
    factor, values, known = regression()
    found = Sketched(rows=N, iterations=0).solve(factor, values, known, generator(1, "sketch"))
    torch.testing.assert_close(found, one_by_one(factor, values, known))


@pytest.mark.parametrize("start", ["zero", "sketch"])
def test_many_steps_are_least_squares_and_each_comes_nearer(start) -> None:
    factor, values, known = regression()
    exact, draw = one_by_one(factor, values, known), lambda: generator(1, "sketch")
    errors = [
        (Sketched(rows=16, iterations=steps, start=start).solve(factor, values, known, draw()) - exact).norm()
        for steps in (0, 2, 4, 8, 16, 400)
    ]
    assert all(later < 0.9 * sooner for sooner, later in pairwise(errors))
    assert errors[-1] < 1e-9


def test_the_sketch_conditions_as_the_paper_says() -> None:
    """(1 + sqrt(k/s)) / (1 - sqrt(k/s)), with high probability."""
    factor, _, known = regression(rows=400, share=0.9)
    solver = Sketched(rows=24, iterations=1)
    a = known.unsqueeze(2) * factor
    r = torch.linalg.qr(solver.sketch(a, generator(2, "sketch"))).R
    found = torch.linalg.cond(a @ torch.linalg.inv(r))
    bound = (1 + sqrt(RANK / 24)) / (1 - sqrt(RANK / 24))
    assert (found <= bound).double().mean() > 0.95
    assert torch.linalg.cond(a).min() >= 1


def test_where_v_is_right_the_sketch_alone_is_exact_and_a_start_from_zero_is_not() -> None:
    """So a floor is the cold start's, not the solver's."""
    factor, _, known = regression()
    true = torch.from_numpy(stream(3, "rows").standard_normal((len(known), RANK)))
    values = (true @ factor.T) * known
    warm, cold = (Sketched(rows=16, iterations=2, start=start).solve(factor, values, known, generator(1, "s"))
                  for start in ("sketch", "zero"))  # fmt: skip
    torch.testing.assert_close(warm, true)
    assert (cold - true).norm() > 1e-3 * true.norm()


# The algorithm --------------------------------------------------------------------------------------------------------


def test_of_a_matrix_known_in_full_one_round_finds_v() -> None:
    """Any rows U that are not degenerate have V for answer."""
    whole = assembled("aggregator.altmin.initial=random", "until.versions=1")
    matrix = whole.dataset.x[:, VALUE] + whole.dataset.x_test[:, ASKED] * whole.dataset.y_test
    whole.trainer.x[:, VALUE], whole.trainer.x[:, KNOWN] = matrix, 1
    simulation = whole.simulation(Recording())
    simulation.run()
    found = projector(simulation.aggregator.params.view(N, RANK))
    assert ((matrix.double() @ found) - matrix).norm() < 1e-5 * matrix.norm()


def test_errors_fall_geometrically_to_float32s_precision() -> None:
    errors = [error(f"until.versions={versions}") for versions in (2, 4, 6, 8, 20)]
    assert all(later < 0.4 * sooner for sooner, later in pairwise(errors))
    assert errors[-1] < 5e-7


@pytest.mark.parametrize("sketched", ["null", "{rows: 12, iterations: 2}"])
def test_it_does_not_matter_who_holds_which_rows(sketched) -> None:
    how = f"aggregator.altmin.sketched={sketched}"
    one, *others = (end(how, f"fleet.clients={clients}", "until.versions=4") for clients in (1, 7, 45))
    for other in others:
        torch.testing.assert_close(projector(other), projector(one), rtol=0, atol=2e-6)


def test_it_is_the_central_algorithm() -> None:
    """By lstsq of whole rows and columns, from the same V, in float64."""
    whole = assembled("aggregator.altmin.initial=random", "until.versions=3")
    values, known = whole.dataset.x[:, VALUE].double(), whole.dataset.x[:, KNOWN].double()
    factor = whole.params.view(N, RANK).double()
    for _ in range(3):
        rows = one_by_one(factor, values, known)
        factor = torch.linalg.qr(one_by_one(rows, values.T, known.T)).Q
    found = end("aggregator.altmin.initial=random", "until.versions=3")
    torch.testing.assert_close(projector(found), projector(factor), rtol=0, atol=2e-6)


def test_another_basis_of_the_same_columns_changes_nothing() -> None:
    whole = assembled()
    answers = NormalEquations(whole.trainer, Exact(), spectral=False)
    turn = torch.from_numpy(np.linalg.qr(stream(1, "turn").standard_normal((RANK, RANK)))[0])
    factor = whole.params.view(N, RANK)
    ends = []
    for start in (factor, factor @ turn.float()):
        tasks = [LocalTask(client, start.flatten(), 0, 1, version=1) for client in range(7)]
        matrices, right = answers.equations(total([result.delta for result in answers(tasks)]))
        ends.append(projector(torch.linalg.solve(matrices, right)))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-5)


def test_rows_with_too_few_known_entries_say_nothing() -> None:
    whole = assembled("fleet.clients=1")
    answers = NormalEquations(whole.trainer, Exact(), spectral=False)
    before = answers(task := [LocalTask(0, whole.params, 0, 1, version=1)])[0].delta
    row = whole.trainer.x[0]
    kept = row.clone()
    row[KNOWN].view(-1)[row[KNOWN].nonzero().flatten()[RANK - 1 :]] = 0
    row[VALUE] *= row[KNOWN]
    without = answers(task)[0].delta
    row[:] = kept * 0
    torch.testing.assert_close(answers(task)[0].delta, without)
    assert not torch.equal(before, without)


def test_a_column_of_which_nothing_is_known_harms_nobody() -> None:
    whole = assembled()
    whole.trainer.x[:, :2, 4] = 0
    simulation = whole.simulation(Recording())
    simulation.run()
    found = simulation.aggregator.params.view(N, RANK)
    assert found.isfinite().all()
    assert found[4].abs().max() < 1e-6


def test_the_spectral_start_is_near_the_top_singular_vectors_and_clipped() -> None:
    whole = assembled("until.versions=1")
    values = whole.dataset.x[:, VALUE].double()
    top = torch.linalg.svd(values).Vh[:RANK].T
    found = end("until.versions=1")
    share = (projector(found) @ top).square().sum() / RANK
    random = (projector(whole.params.view(N, RANK)) @ top).square().sum() / RANK
    assert share > 0.9 > 0.5 > random
    spiky = whole.simulation(Recording()).aggregator
    image = torch.zeros(N, spiky.answers.width, dtype=torch.float64)
    image[0] = 100 * spiky.answers.test_columns()[0]
    image += spiky.answers.test_columns()
    assert spiky.spectral(image.flatten()).norm(dim=1).max() <= 2 * sqrt(RANK / N) + 1e-12


def test_it_is_robust_to_rows_found_more_or_less() -> None:
    sketch = "aggregator.altmin.sketched={rows: 12, iterations: 2, start: %s}"
    exact, warm, cold = error(), error(sketch % "sketch"), error(sketch % "zero")
    assert warm < 10 * exact
    assert 1e-4 < cold < 0.5


# What it costs --------------------------------------------------------------------------------------------------------


def test_messages_are_sums_in_float64_and_time_is_flops_in_plain_gradients() -> None:
    whole = assembled("until.versions=3")
    simulation = whole.simulation(Recording())
    simulation.run()
    width = RANK * (RANK + 1) // 2 + RANK
    assert {row[4] for row in simulation.trace.of(ARRIVE)} == {8 * N * width}
    assert {row[4] for row in simulation.trace.of(TRAIN)} == {4 * N * RANK}
    entries, held = int(whole.dataset.x[whole.trainer.parts.indices[0], KNOWN].sum()), whole.trainer.parts.sizes[0]
    flops = entries * (2 * RANK * (RANK + 1) + 4 * RANK) + held * RANK**3 // 3
    assert simulation.work.seen[0] == -(-flops // int(whole.work.flops)) < held


def test_time_and_traffic_are_known_without_an_answer() -> None:
    whole = assembled()
    real, foreseen = (whole.simulation(Recording(), timing_only=null) for null in (False, True))
    for each in (real, foreseen):
        each.run()
    assert real.trace.digest() == foreseen.trace.digest()


def test_more_steps_take_longer() -> None:
    cost = [Sketched(rows=8, iterations=steps).flops(100, 10, 5) for steps in (0, 1, 2)]
    assert cost[2] - cost[1] == cost[1] - cost[0] == 4 * 100 * 5
    large = 64
    assert Sketched(rows=100, iterations=5).flops(10**6, 10, large) < Exact().flops(10**6, 10, large)


def test_global_randomness_is_not_touched() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    end("aggregator.altmin.sketched={rows: 12, iterations: 1}", "until.versions=2")
    assert torch.equal(before, torch.get_rng_state())


# Data and model -------------------------------------------------------------------------------------------------------


def test_held_out_entries_are_the_test_set_and_its_loss_is_the_relative_error() -> None:
    data = Matrix(seed=1, rows=30, columns=20, rank=2, observed=0.3, partition=Iid()).load()
    assert torch.equal(data.x[:, :2], data.x_test[:, :2])
    assert torch.equal(data.x[:, ASKED], data.x[:, KNOWN])
    assert torch.equal(data.x_test[:, ASKED], 1 - data.x_test[:, KNOWN])
    assert not data.x[:, VALUE][data.x[:, KNOWN] == 0].any()
    assert data.y_test.square().sum() / 30 == pytest.approx(1, rel=1e-5)
    whole = data.x[:, VALUE] + data.y_test
    assert torch.linalg.matrix_rank(whole, rtol=1e-5) == 2


def test_the_models_gradient_is_that_of_the_least_loss_over_rows() -> None:
    """Against finite differences in float64."""
    data = Matrix(seed=1, rows=12, columns=10, rank=2, observed=0.7).load()
    model, x, y = LowRank(10, 2).double(), data.x.double(), data.y.double()

    def loss(factor: Tensor) -> Tensor:
        return (functional_call(model, {"factor": factor}, (x,)) - y).square().sum() / 2

    factor = model.factor.detach().clone().requires_grad_()
    [slope] = torch.autograd.grad(loss(factor), [factor])
    along, small = torch.from_numpy(stream(1, "along").standard_normal((10, 2))), 1e-6
    with torch.no_grad():
        difference = (loss(factor + small * along) - loss(factor - small * along)) / (2 * small)
    assert float((slope * along).sum()) == pytest.approx(float(difference), rel=1e-6)


def test_any_other_aggregator_can_train_the_columns_by_gradients() -> None:
    fedavg = ["aggregator={fedbuff: {goal: 4, concurrency: 7}}", "until.versions=40", "local.steps=4",
              "local.optimizer={sgd: {lr: 0.3}}"]  # fmt: skip
    assert error(*fedavg) < 0.7 * error(*fedavg, "until.versions=1")


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model={mlp: {hidden: [3]}}"], "altmin solves for the columns of a matrix: take model: low_rank"),
        (["wire={codec: sign}"], "wire: clients of this aggregator send no changes of a model"),
        (["wire={secure: {bound: 1.0}}"], "wire: clients of this aggregator send no changes of a model"),
        (["defence=median"], "defence: clients of this aggregator send no changes"),
        (["adversaries={share: 0.2, lie: sign_flip}"], "adversaries.lie: lies are about changes of a model"),
        (["local.steps=3"], "local: clients of this aggregator take no local steps"),
        (["local.control={clip: {length: 1}}"], "local.control: clients of this aggregator take no local steps"),
        (["local.source={sam: {radius: 0.1}}"], "local.source: clients of this aggregator take no local steps"),
        ([TREE, "edges={aggregator: fedavg}"], "edges: they sum up changes of models"),
        (["aggregator=fedavg", TREE, "edges={aggregator: altmin}"], "edges: they sum up changes"),
        (["data=digits"], "low_rank completes rows of a matrix"),
        (["model.low_rank.rank=61"], "a matrix of 60 columns has no rank of 61"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(overrides, message) -> None:
    with pytest.raises(ScenarioError, match=message) as refused:
        assembled(*overrides)
    assert len(str(refused.value).splitlines()) == 1


def test_the_model_is_in_the_family() -> None:
    assert isinstance(MODELS["low_rank"](shape=(3, 5), classes=5, rank=2), LowRank)
