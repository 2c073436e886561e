"""Test-time adaptation: entropies without labels, Tent, SAR with its way back, and digits that drift."""

from __future__ import annotations

from dataclasses import replace
from math import inf, log

import numpy as np
import pytest
import torch
from worlds import changed

from fedsim.data.drifting import DriftingDigits
from fedsim.errors import ScenarioError
from fedsim.gradients import ClosedForm, Single
from fedsim.gradients.norms import norms
from fedsim.losses import Entropy
from fedsim.models.dense import mlp
from fedsim.objectives import Step, Tent
from fedsim.optimizers.retake import Retake
from fedsim.rng import stream
from fedsim.sources import Sar
from fedsim.sources.sharpness import higher
from fedsim.vector import Layout
from fedsim.work import LocalTask

SCORES = torch.from_numpy(3 * stream(1, "scores").standard_normal((3, 6, 5)))
WHO = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0]])
DIGITS = {
    "seed": 3,
    "until": {"versions": 6},
    "data": {"drifting_digits": {"clean": 3, "size": 32, "rungs": 2}},
    "model": {"mlp": {"hidden": [16], "norm": "layer"}},
    "fleet": {"clients": 4, "devices": "fedscale"},
    "local": {"epochs": 1, "batch": 8, "optimizer": {"sgd": {"lr": 0.3, "momentum": 0.9}}, "personal": "norms",
              "objective": {"tent": {"since": 3}}, "source": "sar", "probe": "online"},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "100 h"},
}  # fmt: skip
TENT = {"source": "backpropagation"}


def sar(**arguments: float) -> dict:
    """Sure enough is whoever is not at a loss: these models have hardly learnt."""
    return {"source": {"sar": {"reliable": 0.9} | arguments}}


def run(local: dict | None = None, **changes):
    return changed(DIGITS, local, **changes)


def task(made, version: int = 9, **more) -> LocalTask:
    return LocalTask(1, made.params, version, 4, version=version, **more)


def owns(simulation) -> list[torch.Tensor]:
    return [simulation.kept[client].settled().personal for client in range(4)]


# Entropies ------------------------------------------------------------------------------------------------------------


def test_entropies_lie_between_none_and_that_of_chance() -> None:
    entropies, _ = Entropy().slope(SCORES.mT.clone(), WHO)
    assert (entropies >= 0).all()
    assert (entropies <= log(5) + 1e-9).all()
    certain, even = torch.tensor([[50.0, 0, 0]]), torch.zeros(1, 3)
    ones = torch.ones(1, dtype=torch.int64)
    assert float(Entropy().each(certain, ones)) == pytest.approx(0, abs=1e-9)
    assert float(Entropy().each(even, ones)) == pytest.approx(log(3))


@pytest.mark.parametrize("bound", [inf, 0.8])
def test_slopes_are_those_of_the_mean_over_whom_it_counts(bound) -> None:
    loss = Entropy(bound)
    entropies, slope = loss.slope(SCORES.mT.clone(), WHO)
    for k, y in enumerate(WHO):
        scores = SCORES[k].clone().requires_grad_()
        each = -(scores.softmax(1) * scores.log_softmax(1)).sum(1)
        counted = each[(each < bound) & (y > 0)]
        wanted = torch.autograd.grad(counted.mean(), [scores])[0] if len(counted) else torch.zeros_like(scores)
        torch.testing.assert_close(slope[k], wanted)
        torch.testing.assert_close(entropies[k], each.detach())
        again = SCORES[k].clone().requires_grad_()
        values = loss.each(again, y)
        torch.testing.assert_close(values.detach(), each.detach())
        torch.testing.assert_close(torch.autograd.grad(values.mean(), [again])[0], wanted)


def test_where_nobody_counts_there_is_a_zero_and_no_nan() -> None:
    _, slope = Entropy(0.0).slope(SCORES.mT.clone(), WHO)
    assert torch.equal(slope, torch.zeros_like(slope))


def test_by_hand_and_by_autograd_it_is_the_same() -> None:
    module = mlp((4,), 3, [5]).double()
    params = {name: part.detach()[None] for name, part in module.named_parameters()}
    x, y = torch.from_numpy(stream(1, "x").standard_normal((1, 6, 4))), WHO[1:2]
    one, other = (kind(module)(params, x, y, Entropy(0.9)) for kind in (ClosedForm, Single))
    torch.testing.assert_close(one[1], other[1])
    for name in params:
        torch.testing.assert_close(one[0][name], other[0][name])


# Laws of adaptation ---------------------------------------------------------------------------------------------------


def test_sar_without_its_parts_is_tent() -> None:
    one, other = run(TENT)[1], run(sar(reliable=inf, radius=0.0, reset=0.0))[1]
    assert torch.equal(one.aggregator.params, other.aggregator.params)
    assert all(torch.equal(left, right) for left, right in zip(owns(one), owns(other), strict=True))
    apart = [run(sar(**{"reliable": inf, "radius": 0.0, "reset": 0.0} | part))[1] for part in
             ({"reliable": 0.8}, {"radius": 0.5}, {"reset": 0.8})]  # fmt: skip
    assert all(not torch.equal(owns(one)[0], owns(each)[0]) for each in apart)


def test_until_then_they_learn_as_ever() -> None:
    plain = run({**TENT, "objective": None}, until={"versions": 3})[1]
    assert torch.equal(run(until={"versions": 3})[1].aggregator.params, plain.aggregator.params)


@pytest.mark.parametrize("local", [TENT, sar(reliable=inf)])
@pytest.mark.parametrize("norm", ["layer", "batch", "group"])
def test_nothing_else_moves_to_the_bit(local, norm) -> None:
    changes = {"model": {"mlp": {"hidden": [16], "norm": norm}}}
    _, learnt = run(local, until={"versions": 3}, **changes)
    made, adapted = run(local, **changes)
    mask = made.trainer.personal.mask
    assert torch.equal(learnt.aggregator.params[~mask], adapted.aggregator.params[~mask])
    assert not torch.equal(owns(learnt)[0], owns(adapted)[0])


@pytest.mark.parametrize("local", [TENT, sar()])
def test_labels_are_not_looked_at(local) -> None:
    made, _ = run(local, until={"versions": 1})
    right = made.trainer([task(made)])[0].kept.personal
    made.trainer.y = (made.trainer.y + 3) % 10
    assert torch.equal(made.trainer([task(made)])[0].kept.personal, right)
    learnt = [made.trainer([task(made, version=2)])[0].delta]
    made.trainer.y = (made.trainer.y + 3) % 10
    assert not torch.equal(made.trainer([task(made, version=2)])[0].delta, learnt[0])


def test_where_nothing_is_reliable_nothing_moves() -> None:
    _, learnt = run(sar(reliable=0.0), until={"versions": 3})
    _, adapted = run(sar(reliable=0.0))
    assert all(torch.equal(left, right) for left, right in zip(owns(learnt), owns(adapted), strict=True))


class Two:
    """A source of gradients of one number a client, whose entropies are said beforehand: here, then higher up."""

    def __init__(self, *entropies: list[float]) -> None:
        self.entropies, self.counted = [torch.tensor([row]) for row in entropies], []

    def __call__(self, params, x, y, loss, offset):
        self.counted.append(y.tolist())
        return {"w": torch.ones(1, 1)}, self.entropies[len(self.counted) - 1]


def test_who_is_not_sure_here_does_not_count_there() -> None:
    """With a bound of 1: of three, the first is sure in both looks, the second here alone, the third there alone."""
    source, memory = Two([0.5, 0.9, 1.5], [0.4, 1.2, 0.3]), {}
    rows = torch.zeros(1, 3, dtype=torch.int64)
    step = Step(source, {"w": torch.zeros(1, 1)}, torch.zeros(1, 3, 1), rows, None, [], 0, 1,  # type: ignore[arg-type]
                Layout(("w",), ((1,),)), rows, lambda rows: (rows, rows), [memory], ("w",))  # fmt: skip
    [term] = Tent(since=0).terms(replace(step, tasks=[LocalTask(0, torch.zeros(1), 0, 1)]))
    Sar(classes=10, reliable=1 / log(10)).gradients(step, [term])
    assert source.counted == [[[1, 1, 1]], [[1, 1, 0]]]
    assert int(memory["sure"]) == 1
    assert float(memory["entropy"]) == pytest.approx(0.4)


def test_a_step_without_anybody_sure_is_not_taken_by_momentum_either() -> None:
    """Entropies above the bound from the second step on: the first step is all that is taken."""
    made, _ = run(sar(reliable=inf, radius=0.0, reset=0.0), until={"versions": 1})
    first = made.trainer([replace(task(made), steps=1)])[0].kept.personal
    plain, looks = made.trainer.source.gradients, []

    def lost(step, terms):
        found = plain(step, terms)
        looks.append(step.number)
        if step.number:
            step.memory[0]["sure"] = torch.tensor(0)
            return {name: torch.zeros_like(part) for name, part in found[0].items()}, found[1]
        return found

    object.__setattr__(made.trainer.source, "gradients", lost)
    assert torch.equal(made.trainer([task(made)])[0].kept.personal, first)
    assert looks == [0, 1, 2, 3]


def test_after_a_reset_they_are_what_they_were() -> None:
    """With a bound that every average is under, each step is taken back, and momentum with it."""
    _, learnt = run(sar(), until={"versions": 3})
    _, adapted = run(sar(reset=100.0, reliable=inf))
    assert all(torch.equal(left, right) for left, right in zip(owns(learnt), owns(adapted), strict=True))
    memory = adapted.kept[0].settled().own
    assert int(memory["resets"]) == 3 * 4
    assert "average" not in memory


def test_the_average_and_the_first_model_outlive_a_training() -> None:
    made, _ = run(sar(reliable=inf), until={"versions": 1})
    first = made.trainer([task(made)])[0].kept
    again = made.trainer([task(made, version=10, kept=first)])[0].kept
    own = [name for name in first.own if name.startswith("first ")]
    assert [name.removeprefix("first ") for name in own] == list(made.trainer.personal.names)
    assert all(torch.equal(first.own[name], again.own[name]) for name in own)
    assert not torch.equal(first.own["average"], again.own["average"])


def test_the_second_look_is_radius_away() -> None:
    params = {"w": torch.ones(2, 3), "b": torch.zeros(2, 2)}
    slope = {"w": torch.tensor([[1.0, 2, 3], [0, 0, 0]]), "b": torch.tensor([[4.0, 5], [0, 0]])}
    there = higher(params, slope, 0.05)
    away = norms({name: there[name] - params[name] for name in params})
    assert away.tolist() == pytest.approx([0.05, 0])


def test_a_step_taken_back_leaves_no_trace() -> None:
    """Two clients with momentum: the first step of one, the second of the other are taken back."""

    def walk(rows: list[int], undone: list[tuple[int, int]]) -> torch.Tensor:
        tensor = torch.ones(len(rows), 3)
        optimizer = torch.optim.SGD([tensor], lr=0.1, momentum=0.9)
        for step in range(4):
            tensor.grad = torch.stack([torch.full((3,), float(1 + row + step)) for row in rows])
            retake = Retake(optimizer, {"w": tensor})
            optimizer.step()
            for place, row in enumerate(rows):
                if (row, step) in undone:
                    retake.undo(place)
        return tensor

    undone = [(0, 0), (1, 1)]
    both = walk([0, 1], undone)
    assert torch.equal(both, torch.cat([walk([0], undone), walk([1], undone)]))
    lone, skipped = torch.ones(1, 3), []
    optimizer = torch.optim.SGD([lone], lr=0.1, momentum=0.9)
    for step in (1, 2, 3):
        lone.grad = torch.full((1, 3), float(1 + step))
        optimizer.step()
        skipped.append(step)
    assert torch.equal(both[:1], lone)


def test_a_restart_forgets_momentum() -> None:
    tensor = torch.ones(2, 3)
    optimizer = torch.optim.SGD([tensor], lr=0.1, momentum=0.9)
    tensor.grad = torch.ones(2, 3)
    optimizer.step()
    retake = Retake(optimizer, {"w": tensor})
    optimizer.step()
    retake.restart(0, {"w": torch.full((3,), 7.0)})
    assert tensor[0].tolist() == [7, 7, 7]
    tensor.grad = torch.ones(2, 3)
    optimizer.step()
    assert tensor[0].tolist() == pytest.approx([6.9] * 3)
    assert tensor[1].tolist() == pytest.approx([1 - 0.1 * (1 + 1.9 + 2.71)] * 3)


# In a federation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [TENT, sar(), sar(reset=0.3)])
@pytest.mark.parametrize("aggregator", [{"fedavg": {"cohort": "all"}}, {"fedbuff": {"concurrency": 3, "goal": 2}}])
def test_it_is_the_same_under_every_executor(local, aggregator) -> None:
    """In a buffer some adapt while others still learn."""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = [run(local, executor=kind, aggregator=aggregator)[1] for kind in ("inline", "stacked", "null")]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(found[0].aggregator.params, found[1].aggregator.params)
    assert len({simulation.trace.digest() for simulation in found}) == 1
    for left, right in zip(*(simulation.progress.probed.tables for simulation in found[:2]), strict=True):
        assert all(np.array_equal(left[name], right[name]) for name in left)


def test_it_takes_the_time_of_two_gradients_and_a_look() -> None:
    made, plain = run()[0], run({**TENT, "probe": None})[0]
    assert list(plain.work.seen) == [32] * 4
    assert list(made.work.seen) == [round(32 * (2 + 1 / 3))] * 4


def test_online_is_what_was_predicted_before_each_step() -> None:
    made, _ = run(until={"versions": 1})
    seen = made.trainer([task(made)])[0].probed
    rows, _ = made.trainer.visits([task(made)])
    x, y = made.trainer.look_up(rows[0, :8])
    named = made.layout.unflatten(made.params)
    chances = torch.func.functional_call(made.evaluator.model, named, (x,)).softmax(1)
    assert seen["step"].tolist() == [0, 1, 2, 3]
    assert seen["accuracy"][0] == pytest.approx(float((chances.argmax(1) == y).double().mean()))
    assert seen["entropy"][0] == pytest.approx(
        float(torch.distributions.Categorical(chances).entropy().mean()), rel=1e-5
    )
    assert seen["commonest"][0] == np.bincount(chances.argmax(1)).max() / 8


# Data and models ------------------------------------------------------------------------------------------------------


def test_digits_drift_rung_by_rung() -> None:
    source = DriftingDigits(seed=1, clean=2, rungs=4, size=30, order="sorted")
    dataset = source.load()
    parts, count = source.partition.split(dataset, 3, 1), len(dataset) // 5
    assert parts.sizes == [30] * 3
    for client in range(3):
        rungs = [set(parts.held(client, ordinal) // count) for ordinal in range(8)]
        assert rungs == [{0}, {0}, *({min(1 + client + late, 4)} for late in range(6))]
        kinds = [len(set(dataset.y[parts.held(client, ordinal)].tolist())) for ordinal in range(8)]
        assert max(kinds[2:]) < 5 < min(kinds[:2])
        passed = np.concatenate([parts.held(client, ordinal) % count for ordinal in range(2, 18)])
        assert len(set(passed.tolist())) == len(passed) or len(set(passed.tolist())) >= count // 3 - 1
    clean, worst = dataset.x[:count], dataset.x[-count:]
    assert torch.equal(dataset.y[:count], dataset.y[-count:])
    noise = worst - 0.6 * clean - 0.1
    assert float(noise.min()) >= -1e-6
    assert float(noise.max()) <= 0.35 + 1e-6
    with pytest.raises(ScenarioError, match="fewer than 30"):
        source.partition.split(dataset, 50, 1)


@pytest.mark.parametrize(("norm", "kind"), [("layer", torch.nn.LayerNorm), ("group", torch.nn.GroupNorm)])
def test_each_example_is_normalised_by_itself(norm, kind) -> None:
    model = mlp((4,), 3, [16], norm=norm, groups=4)
    assert isinstance(model, torch.nn.Sequential)
    assert isinstance(model[2], kind)
    x = torch.from_numpy(stream(1, "x").standard_normal((6, 4))).float()
    torch.testing.assert_close(model(x)[:1], model(x[:1]))
    hidden = model[:3](x)
    groups = hidden.view(6, 4 if norm == "group" else 1, -1)
    torch.testing.assert_close(groups.mean(2), torch.zeros(groups.shape[:2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("local", "changes", "sentence"),
    [({"personal": None}, {}, "local.personal: tent adapts what stays with clients"),
     ({"optimizer_state": "kept"}, {}, "local.optimizer_state: tent needs a fresh optimizer"),
     ({"optimizer": "adamw"}, {}, "local.optimizer: tent leaves alone what is not adapted: take sgd without decay"),
     ({"optimizer": {"sgd": {"lr": 0.1, "weight_decay": 0.1}}}, {}, "take sgd without decay"),
     ({"objective": None}, {}, "local.source: sar adapts without labels: it is for objective tent"),
     ({"private": {"clip": 1.0, "multiplier": 1.0}}, {}, "local.source: with it steps depend on examples")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(local, changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        run(local, **changes)
