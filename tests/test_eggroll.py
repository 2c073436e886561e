"""Gradients from a population: what its noise is, what scores say, and changes that a server makes of scores alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

import pytest
import torch
from networks import B, K, dense, numbers, stacked
from torch import Tensor, nn
from torch.func import functional_call
from worlds import changed

from fedsim.errors import ScenarioError
from fedsim.gradients import ClosedForm, Single
from fedsim.gradients.population import SIGNS, around, member, weighted, whole
from fedsim.losses import CrossEntropy
from fedsim.objectives import Plain, Step, Term
from fedsim.replaying import Replaying, replayer
from fedsim.sources import Eggroll
from fedsim.sources.eggroll import SCORES, shaped
from fedsim.vector import Layout
from fedsim.work import LocalTask

Y = torch.arange(K * B).view(K, B) % 4
RANKS = [1, 3, "full"]
EIGHT = Eggroll(population=8)


def step_of(
    module: nn.Module, number: int = 0, clients: Sequence[int] = range(K), source=ClosedForm, ordinal: int = 2
) -> Step:
    rows, inputs = list(clients), next(iter(module.parameters())).shape[1]
    params = {name: part[rows] for name, part in stacked(module).items()}
    tasks = [LocalTask(k, torch.zeros(0), ordinal, steps=3) for k in rows]
    x = numbers(K, B, inputs)[rows]
    return Step(ClosedForm(module), params, x, Y[rows], None, tasks, number, 7, Layout.of(module),
                torch.zeros(0), lambda rows: (rows, rows), [{} for _ in rows])  # fmt: skip


def found(source: Eggroll, step: Step) -> dict[str, Tensor]:
    return source.gradients(step, Plain().terms(step))[0]


def cosine(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    rows = [torch.cat([named[name].flatten() for name in one]) for named in (one, other)]
    return float(torch.cosine_similarity(*rows, dim=0))


# Noise ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_moves_have_the_moments_of_their_rank(rank) -> None:
    """Entries of A B^T / sqrt(r) are uncorrelated, of variance 1 and kurtosis 3 + 6 / r: normal as r grows."""
    step, sigma = step_of(dense(8, 5)), 0.1
    moves = Eggroll(population=2**15, rank=rank, sigma=sigma).moves(step, 0)["1.weight"]
    entries = whole(moves).flatten(1).double() / sigma
    assert float(entries.mean()) == pytest.approx(0, abs=0.01)
    assert float(entries.var()) == pytest.approx(1, rel=0.02)
    assert float(entries.pow(4).mean() / entries.var() ** 2) == pytest.approx(3 + 6 / rank, rel=0.04)
    torch.testing.assert_close(entries.T @ entries / len(entries), torch.eye(40).double(), rtol=0, atol=0.06)


def test_vectors_move_in_full_or_stand_still() -> None:
    step = step_of(dense(8, 5))
    [bias] = Eggroll(population=2**14, sigma=0.1).moves(step, 0)["1.bias"]
    assert float(bias.std()) == pytest.approx(0.1, rel=0.02)
    still = Eggroll(population=16, vectors=False)
    assert not still.moves(step, 0)["1.bias"][0].any()
    grads = found(still, step)
    assert not grads["1.bias"].any()
    assert grads["1.weight"].any()


def test_noise_is_a_function_of_its_address() -> None:
    """Seed, client, ordinal, step and parameter; steps share it for as long as they are told to, trainings never."""
    module = dense(6, 6, 6)

    def drawn(source: Eggroll = EIGHT, k: int = 0, name: str = "1.weight", **where) -> Tensor:
        return whole(source.moves(step_of(module, **where), k)[name])

    before = torch.get_rng_state()
    assert torch.equal(drawn(), drawn())
    assert torch.equal(drawn(k=2), drawn(clients=[2]))
    others = [drawn(k=1), drawn(number=1), drawn(ordinal=3), drawn(name="3.weight")]
    assert not any(torch.equal(drawn(), other) for other in others)
    twice = Eggroll(population=8, noise_reuse=2)
    steps = [drawn(twice, number=number) for number in range(4)]
    assert torch.equal(steps[0], steps[1])
    assert torch.equal(steps[2], steps[3])
    assert not torch.equal(steps[1], steps[2])
    assert not torch.equal(drawn(twice), drawn(twice, ordinal=3))
    assert torch.equal(before, torch.get_rng_state())


# Scores ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("widths", [(6, 4), (6, 5, 4), (6, 5, 1, 3, 4)])
def test_members_that_are_not_made_say_what_those_say_that_are(rank, widths) -> None:
    module = dense(*widths)
    step, source = step_of(module), Eggroll(population=6, rank=rank, sigma=0.3)
    for k in range(K):
        own, moves = {name: part[k] for name, part in step.params.items()}, source.moves(step, k)
        at_once = around(step.source, own, step.x[k], moves)
        one_by_one = around(Single(module), own, step.x[k], moves)
        assert at_once.shape == (3, 2, B, 4)
        torch.testing.assert_close(at_once, one_by_one, rtol=1e-4, atol=1e-5)
        for pair in range(3):
            for place, sign in enumerate(SIGNS):
                made = {name: part[0] for name, part in member(own, moves, pair, sign).items()}
                said = functional_call(module, made, (step.x[k],))
                torch.testing.assert_close(at_once[pair, place], said, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_its_formula_by_loops() -> None:
    module, source = dense(6, 5, 4), Eggroll(population=8, rank=2, sigma=0.2)
    step = step_of(module)
    grads, losses = source.gradients(step, Plain().terms(step))
    for k in range(K):
        own, moves = {name: part[k] for name, part in step.params.items()}, source.moves(step, k)
        signs = torch.tensor(SIGNS * 4)
        members = [{n: p[0] for n, p in member(own, moves, i // 2, float(signs[i])).items()} for i in range(8)]
        each = [nn.functional.cross_entropy(functional_call(module, named, (step.x[k],)), Y[k], reduction="none")
                for named in members]  # fmt: skip
        torch.testing.assert_close(losses[k], torch.stack(each).mean(0), rtol=1e-4, atol=1e-5)
        fitness = torch.stack([-loss.mean() for loss in each])
        z = (fitness - fitness.mean()) / (fitness.var(correction=0) + 1e-5).sqrt()
        for name, part in step.params.items():
            moved = [z[i] * signs[i] * whole(tuple(factor[i // 2] for factor in moves[name])) for i in range(8)]
            expected = -sqrt(8) / 8 * torch.stack(moved).sum(0)
            torch.testing.assert_close(grads[name][k], expected.view_as(part[k]), rtol=1e-3, atol=1e-5)


def test_shaped_fitness_is_blind_to_means_of_groups_and_to_signs() -> None:
    fitness = numbers(4, 2)
    torch.testing.assert_close(shaped(-fitness), -shaped(fitness))
    assert not shaped(torch.full((4, 2), 3.0)).any()
    groups = fitness.flatten().view(2, 4)
    z = ((groups - groups.mean(1, keepdim=True)) / (fitness.var(correction=0) + 1e-5).sqrt()).view(4, 2)
    torch.testing.assert_close(shaped(fitness), z[:, 0] - z[:, 1], rtol=1e-5, atol=1e-6)


class Linear:
    """A loss that is linear in the scores, so that its gradient is known: minus or plus the first of them."""

    def __init__(self, slope: float) -> None:
        self.by = slope

    def each(self, scores: Tensor, y: Tensor) -> Tensor:
        return self.by * scores[:, 0]

    def slope(self, scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.by * scores[:, 0], scores.mT


@pytest.mark.parametrize("rank", [1, "full"])
def test_the_more_members_the_nearer_to_the_gradient(rank) -> None:
    """Of a linear function: -g / |g| is opposite where the slope is, nought where it is, and cosines grow to 1."""
    module = dense(6, 4)
    step, cosines = step_of(module, clients=[1]), []
    truth = {"1.weight": torch.zeros(1, 4, 6), "1.bias": torch.zeros(1, 4)}
    truth["1.weight"][0, 0], truth["1.bias"][0, 0] = step.x[0].mean(0), 1.0
    for population in (16, 256, 4096):
        source = Eggroll(population=population, rank=rank, sigma=0.01)
        ways = [
            source.gradients(replace(step, memory=[{}]), [Term("loss", step.x, step.y, Linear(slope))])[0]
            for slope in (1, -1, 0)
        ]
        cosines.append(cosine(ways[0], truth))
        assert cosine(ways[0], ways[1]) == pytest.approx(-1)
        assert not any(part.any() for part in ways[2].values())
    assert cosines == sorted(cosines)
    assert cosines[0] < 0.8 < 0.97 < cosines[-1]


def test_of_a_network_it_nears_the_gradient_too() -> None:
    step = step_of(dense(6, 5, 4))
    truth, _ = step.source(step.params, step.x, step.y)
    assert cosine(found(Eggroll(population=4096, sigma=0.01), step), truth) > 0.95


@pytest.mark.parametrize(("population", "rank", "expected"), [(4, 1, 2), (4, 2, 4), (16, 1, 5), (2, 1, 1)])
def test_an_update_has_the_rank_of_all_pairs_together(population, rank, expected) -> None:
    grads = found(Eggroll(population=population, rank=rank), step_of(dense(9, 5)))
    assert {int(torch.linalg.matrix_rank(grad)) for grad in grads["1.weight"]} == {expected}


def test_a_stack_is_each_client_alone_and_offsets_and_weights_count() -> None:
    module, source = dense(6, 5, 4), Eggroll(population=8, rank=2)
    step = step_of(module)
    offset = numbers(K, 4)
    both = source.gradients(
        step, [Term("one", step.x, step.y, CrossEntropy(), offset), Term("two", step.x, step.y, weight=0.5)]
    )
    for k in range(K):
        alone = step_of(module, clients=[k])
        terms = [Term("one", alone.x, alone.y, CrossEntropy(), offset[[k]]), Term("two", alone.x, alone.y, weight=0.5)]
        grads, losses = source.gradients(alone, terms)
        assert torch.equal(losses[0], both[1][k])
        assert all(torch.equal(grads[name][0], both[0][name][k]) for name in grads)
        assert torch.equal(alone.memory[0][SCORES], step.memory[k][SCORES])
    assert not torch.equal(found(source, replace(step, memory=[{} for _ in range(K)]))["1.weight"], both[0]["1.weight"])


def test_weighted_sums_are_those_of_whole_moves() -> None:
    weights, left, right = numbers(5), numbers(5, 3, 2), numbers(5, 4, 2)
    torch.testing.assert_close(weighted((left, right), weights), torch.tensordot(weights, left @ right.mT, 1))


# In a scenario --------------------------------------------------------------------------------------------------------

DIGITS = {
    "seed": 3,
    "until": {"versions": 3},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.5}}}},
    "model": {"mlp": {"hidden": [16]}},
    "fleet": {"clients": 6, "devices": "fedscale"},
    "local": {"steps": 4, "batch": 16, "optimizer": {"sgd": {"lr": 1.0}},
              "source": {"eggroll": {"population": 16}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "1 h"},
}  # fmt: skip
SCORED = {"wire": {"up": "scores"}}


def run(local: dict | None = None, **changes):
    return changed(DIGITS, local, **changes)


def final(*where, **changes) -> Tensor:
    return run(*where, **changes)[1].aggregator.params


@pytest.mark.parametrize("optimizer", [
    {"sgd": {"lr": 1.0}}, {"sgd": {"lr": 0.5, "momentum": 0.9}}, {"adam": {"lr": 0.02}}, "adagrad_norm"])  # fmt: skip
def test_the_server_makes_the_very_change_that_was_trained(optimizer) -> None:
    """From scores alone: whatever the optimizer, with unequal steps, and one client or many at once."""
    made, _ = run({"optimizer": optimizer, "schedule": {"linear": {"over": "round"}}, "control": "clip"}, **SCORED)
    replay = replayer(made)
    tasks = [LocalTask(k, made.params * (1 + k / 9), ordinal=2, steps=5 - k, version=1) for k in range(6)]
    trained = made.trainer(tasks)
    messages = [found.written.get(SCORES) for found in trained]
    assert [None if said is None else tuple(said.shape) for said in messages] == [(5 - k, 8) for k in range(5)] + [None]
    sent = [Replaying.heard(task, found) for task, found in zip(tasks, trained, strict=True)]
    assert all(set(task.kept.own) <= {SCORES} and task.kept.optimizer == {} for task in sent)
    assert {said.dtype for said in messages if said is not None} == {torch.float32}
    for k, again in enumerate(replay(sent)):
        assert torch.equal(again.delta, trained[k].delta)
        assert torch.equal(replay([sent[k]])[0].delta, trained[k].delta)
        assert trained[k].delta.any() == (k < 5)


@pytest.mark.parametrize("changes", [
    {}, {"aggregator": {"fedbuff": {"concurrency": 4, "goal": 2}}}, {"aggregator": {"fedstale": {"beta": 0.5}}},
    {"model": {"mlp": {"hidden": [12], "norm": "batch"}}}], ids=str)  # fmt: skip
def test_runs_by_scores_are_runs_by_changes_but_for_bytes(changes) -> None:
    known = {"fleet": {"clients": 6, "devices": {"constant": {"per_example": "1 ms"}}}}
    (_, changed), (made, scored) = run(**changes, **known), run(**changes, **known, **SCORED)
    if "aggregator" not in changes:
        assert torch.equal(changed.aggregator.params, scored.aggregator.params)
    assert scored.progress.up == scored.progress.updates * made.work.steps[0] * 8 * 4
    assert changed.progress.up == changed.progress.updates * 4 * made.layout.size


def test_messages_are_as_long_as_trainings() -> None:
    """With epochs each client has steps of its own, which fall as versions go by."""
    local = {"steps": None, "epochs": 2, "shrink": {"factor": 0.5, "every": 1}}
    made, simulation = run(local, **SCORED)
    expected = sum(made.work.steps_at(k, version) for k in range(6) for version in range(3)) * 32
    assert simulation.progress.up == expected
    assert torch.equal(simulation.aggregator.params, final(local))


@pytest.mark.parametrize("executor", ["inline", "null"])
def test_whoever_computes_it(executor) -> None:
    _, usual = run(**SCORED)
    _, other = run(executor=executor, **SCORED)
    assert usual.trace.digest() == other.trace.digest()
    if executor == "inline":
        assert torch.equal(usual.aggregator.params, other.aggregator.params)


def test_it_learns_and_takes_its_time() -> None:
    local = {"steps": 12, "optimizer": {"adam": {"lr": 0.02}}, "source": {"eggroll": {"population": 64}}}
    slow, learnt = run(local, until={"versions": 20})
    fast, _ = run({"steps": 12, "source": "backpropagation"})
    assert learnt.progress.rows[-1]["accuracy"] > 0.8
    assert [a / b for a, b in zip(slow.work.seen, fast.work.seen, strict=True)] == pytest.approx([64 / 3] * 6, rel=0.01)


@pytest.mark.parametrize(
    ("local", "changes", "sentence"),
    [({"source": "sam"}, {}, "only the source eggroll has scores"),
     ({"optimizer_state": "kept"}, {}, "what a client's optimizer remembers"),
     ({"control": "ghosts"}, {}, "no examples, by which this control"),
     ({"schedule": "refined"}, {}, "gradients of the client's last training"),
     ({"personal": ["3."]}, {}, "not the server's to replay"),
     ({}, {"aggregator": {"scaffold": {"cohort": "all"}}}, "corrects gradients, or wants more"),
     ({}, {"aggregator": {"fedprox": {"mu": 0.1}}}, "corrects gradients, or wants more"),
     ({}, {"wire": {"up": "scores", "codec": "sign"}}, "no vectors that a codec"),
     ({}, {"wire": {"up": "scores", "clip": 1.0}}, "no vectors that a codec"),
     ({}, {"wire": {"up": "scores", "secure": {"bound": 1.0}}}, "no vectors that a codec"),
     ({}, {"adversaries": {"share": 0.2, "lie": "sign_flip"}}, "liars lie about vectors"),
     ({"private": {"clip": 1.0, "multiplier": 1.0}}, {}, "local.source: with it steps depend on examples"),
     ({"source": {"eggroll": {"population": 7}}}, {}, "population"),
     ({"source": {"eggroll": {"noise_reuse": 0}}}, {}, "noise_reuse")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(local, changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence) as caught:
        run(local, **{**SCORED, **changes})
    assert len(str(caught.value).splitlines()) == 1
