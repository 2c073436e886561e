"""Optimizers that go on from one training of a client to its next: as if it had never stopped, in any company."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from test_drift import noise
from test_training import CLASSES, DENSE, RULES, SEED, UnitSteps, examples, far, parts, trainer
from torch import Tensor, nn

import fedsim
from fedsim.drift import ControlVariates
from fedsim.errors import ScenarioError
from fedsim.executors import Inline, Stacked
from fedsim.experiment import assemble
from fedsim.models import initial_params
from fedsim.optimizers import OPTIMIZERS, Recipe
from fedsim.rng import stream
from fedsim.scenario import read
from fedsim.state import restore, saved
from fedsim.training import batches
from fedsim.work import STATELESS, ClientState, LocalResult, LocalTask

EACH_RULE = pytest.mark.parametrize("name", RULES)
REMEMBERED = {
    "sgd": set(),
    "momentum": {"momentum_buffer"},
    "adam": {"exp_avg", "exp_avg_sq", "step"},
    "adamw": {"exp_avg", "exp_avg_sq", "step"},
    "adagrad": {"sum", "step"},
    "rmsprop": {"square_avg", "momentum_buffer", "step"},
}


def rule(name: str, lr: float = 1e-3) -> Recipe:
    return OPTIMIZERS[{"momentum": "sgd"}.get(name, name)](**RULES[name] | {"lr": lr})


keeping = partial(trainer, keeps=True)


def equal(one: LocalResult, two: LocalResult) -> bool:
    """To the last bit, memories included."""
    a, b = one.kept.optimizer, two.kept.optimizer
    alike = a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    drifts = one.kept.drift, two.kept.drift
    alike &= drifts[0] is drifts[1] or torch.equal(*drifts)
    return alike and torch.equal(one.delta, two.delta) and one.loss == two.loss


# The law --------------------------------------------------------------------------------------------------------------


@EACH_RULE
def test_two_trainings_are_one_of_twice_the_length(name, monkeypatch) -> None:
    """With the same batches, to the last bit: the start is such that start + (end - start) is exact (Sterbenz)."""

    def in_a_row(seed: int, task: LocalTask, held: int, batch: int) -> np.ndarray:
        return batches(seed, LocalTask(task.client, task.params, 0, 8), held, batch)[task.ordinal :][: task.steps]

    monkeypatch.setattr("fedsim.training.batches", in_a_row)
    draws, size = stream(3, "start"), initial_params(DENSE["mlp"], 1)[1].numel()
    start = torch.from_numpy(draws.uniform(0.1, 0.2, size) * draws.choice([-1, 1], size)).float()
    train = keeping(DENSE["mlp"], recipe=rule(name, lr=1e-4))
    for client in range(3):
        task = LocalTask(client, start, 0, 8)
        [whole] = train([task])
        [first] = train([replace(task, steps=5)])
        middle = start + first.delta
        assert (middle / start).min() > 0.5
        assert (middle / start).max() < 2
        [second] = train([LocalTask(client, middle, 5, 3, kept=first.kept)])  # the ordinal: where to go on
        assert torch.equal(middle + second.delta, start + whole.delta)
        assert equal(second, replace(whole, delta=second.delta, loss=second.loss))
        assert set(whole.kept.optimizer) == REMEMBERED[name]
        [forgetful] = train([LocalTask(client, middle, 5, 3)])
        assert torch.equal(forgetful.delta, second.delta) == (name == "sgd")


@EACH_RULE
def test_it_is_one_torch_optimizer_that_lives_on_while_the_model_is_replaced(name) -> None:
    module, train, kept = DENSE["mlp"](), keeping(DENSE["mlp"], recipe=rule(name)), STATELESS
    optimizer = rule(name)(list(module.parameters()))
    for ordinal in range(3):
        start = initial_params(DENSE["mlp"], 1 + ordinal)[1]
        task = LocalTask(2, start, ordinal, 4, kept=kept)
        nn.utils.vector_to_parameters(start.clone(), module.parameters())
        (x, y), part = examples((64,)), parts().indices[2]
        for rows in part[batches(SEED, task, len(part), 10)]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()
        end = nn.utils.parameters_to_vector(module.parameters()).detach()
        [result] = train([task])
        assert far(end - start, result.delta) < 1e-3
        kept = result.kept


# In whose company -----------------------------------------------------------------------------------------------------


def chains(executor, length: int = 4) -> list[list[LocalResult]]:
    """Each client's trainings, some of no steps, each to go on from the one before; all pending if it allows that."""
    params, kept, found = initial_params(DENSE["mlp"], 1)[1], {}, []
    for ordinal in range(length):
        for client in range(7):
            steps = (client + 2 * ordinal) % 4
            task = LocalTask(client, params * (1 + client / 10), ordinal, steps, noise(params, "sent", ordinal))
            found.append(executor.submit(task, due=100 * ordinal - client, after=kept.get(client)))
            kept[client] = found[-1].keep()
    return [deferred.result() for deferred in reversed(found)][::-1]


@EACH_RULE
@pytest.mark.parametrize("drift", [None, ControlVariates()], ids=["plain", "variates"])
def test_stacked_trainings_leave_what_each_alone_leaves(name, drift) -> None:
    """Clients whose counts of steps differ, too."""
    train = partial(keeping(DENSE["mlp"], recipe=rule(name, lr=0.01)), drift=drift)
    alone = chains(Inline(train))
    together = chains(Stacked(train, worth=64, row_bytes=4, synchronous=False))
    assert all(map(equal, alone, together))
    assert (alone[-1].kept.drift is None) == (drift is None)
    counts = {float(result.kept.optimizer.get("step", 0)) for result in alone}
    assert len(counts) > 5 or "step" not in REMEMBERED[name]


def test_only_clients_of_equal_counts_are_one_stack() -> None:
    train = keeping(DENSE["mlp"], recipe=rule("adam"))
    params = initial_params(DENSE["mlp"], 1)[1]
    left = train([LocalTask(client, params, 0, 1 + client % 2) for client in (0, 2, 3, 5)])
    again = [
        LocalTask(client, params, 1, 2, kept=result.kept) for client, result in zip((0, 2, 3, 5), left, strict=True)
    ]
    assert sorted(map(sorted, train._stacks(again))) == [[0, 1], [2, 3]]
    assert len(list(keeping(DENSE["mlp"], recipe=rule("momentum"))._stacks(again))) == 2
    assert len(list(trainer(DENSE["mlp"])._stacks([replace(task, kept=STATELESS) for task in again]))) == 1


def test_no_steps_leave_what_was_there() -> None:
    train, params = keeping(DENSE["mlp"], recipe=rule("adam")), initial_params(DENSE["mlp"], 1)[1]
    [first] = train([LocalTask(2, params, 0, 3)])
    idle, _ = train([LocalTask(2, params, 1, 0, kept=first.kept), LocalTask(0, params, 1, 2, kept=first.kept)])
    assert equal(idle, replace(first, delta=idle.delta, loss=0.0))
    assert train([LocalTask(2, params, 0, 0)])[0].kept.optimizer == {}


def test_nothing_kept_is_written_to_or_holds_the_stack() -> None:
    train, params = keeping(DENSE["mlp"], recipe=rule("adam")), initial_params(DENSE["mlp"], 1)[1]
    tasks = [LocalTask(client, params, 0, 3) for client in (0, 2, 3)]
    results = train(tasks)
    copies = [{key: value.clone() for key, value in result.kept.optimizer.items()} for result in results]
    train([replace(task, ordinal=1, kept=result.kept) for task, result in zip(tasks, results, strict=True)])
    for result, copy in zip(results, copies, strict=True):
        for key, value in result.kept.optimizer.items():
            assert torch.equal(value, copy[key])
            assert value.untyped_storage().nbytes() == 4 * value.numel()


def test_who_starts_afresh_leaves_nothing() -> None:
    [result] = trainer(DENSE["mlp"], recipe=rule("adam"))([LocalTask(0, initial_params(DENSE["mlp"], 1)[1], 0, 3)])
    assert result.kept.optimizer == {}
    assert result.kept.drift is None


# Rules of one's own ---------------------------------------------------------------------------------------------------


class Counting(torch.optim.Optimizer):
    """Heavy ball with a plain number for its count; looks at whole tensors, so it cannot be stacked."""

    stackable = False

    def __init__(self, params, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore
        for tensor in self.param_groups[0]["params"]:
            state = self.state[tensor]
            state["count"] = state.get("count", 0) + 1
            state["ball"] = 0.5 * state.get("ball", 0) + tensor.grad / tensor.grad.norm().clamp(min=1e-6)
            tensor.sub_(self.param_groups[0]["lr"] / state["count"] * state["ball"])


class Fading(torch.optim.SGD):
    """Changes its own learning rate."""

    def step(self, closure=None):  # pyright: ignore
        super().step()
        self.param_groups[0]["lr"] *= 0.5


class Uneven(torch.optim.SGD):
    """A number of its own for each parameter."""

    def step(self, closure=None):  # pyright: ignore
        super().step()
        for place, tensor in enumerate(self.param_groups[0]["params"]):
            self.state[tensor]["place"] = place


class Partly(torch.optim.SGD):
    """Remembers nothing of the first parameter."""

    def step(self, closure=None):  # pyright: ignore
        super().step()
        for tensor in self.param_groups[0]["params"][1:]:
            self.state[tensor]["seen"] = 1


def scalar_and_matrix() -> nn.Module:
    module = nn.Linear(64, CLASSES)
    module.scale = nn.Parameter(torch.ones(()))
    module.forward = lambda x: module.scale * nn.functional.linear(x.flatten(1), module.weight, module.bias)  # type: ignore[method-assign]
    return module


def test_a_rule_of_ones_own_with_numbers_and_without_stacking() -> None:
    train = keeping(DENSE["mlp"], recipe=Recipe(Counting, {"lr": 0.01}))
    params = initial_params(DENSE["mlp"], 1)[1]
    [first] = train([LocalTask(2, params, 0, 3)])
    [second] = train([LocalTask(2, params, 1, 2, kept=first.kept)])
    assert (first.kept.optimizer["count"], second.kept.optimizer["count"]) == (3, 5)
    assert first.kept.optimizer["ball"].shape == params.shape
    assert not torch.equal(second.delta, train([LocalTask(2, params, 1, 2)])[0].delta)


def test_a_rule_without_memory_and_a_parameter_without_axes() -> None:
    keeping(DENSE["mlp"], recipe=Recipe(UnitSteps, {"lr": 1.0}))
    for recipe in (rule("adam"), Recipe(Counting, {"lr": 0.01})):
        train = keeping(scalar_and_matrix, recipe=recipe)
        params = initial_params(scalar_and_matrix, 1)[1]
        [first] = train([LocalTask(2, params, 0, 3)])
        [second] = train([LocalTask(2, params, 1, 2, kept=first.kept)])
        assert {value.numel() for value in map(torch.as_tensor, second.kept.optimizer.values())} == {1, len(params)}


def adafactor(lr: float = 0.01) -> Recipe:
    """Its memory has the shape of rows and columns."""
    return Recipe(torch.optim.Adafactor, {"lr": lr})


@pytest.mark.parametrize(
    ("recipe", "fault"),
    [
        (adafactor(), "Adafactor has no memory that could be kept: what it remembers as 'row_var' is neither"),
        (Recipe(Fading, {"lr": 0.1}), "Fading has no memory that could be kept: it changes its own settings"),
        (Recipe(Uneven, {"lr": 0.1}), "Uneven has no memory that could be kept: what it remembers as 'place'"),
        (Recipe(Partly, {"lr": 0.1}), "Partly has no memory that could be kept: what it remembers as 'seen'"),
    ],
)
def test_what_cannot_be_kept_is_refused(recipe, fault) -> None:
    trainer(DENSE["mlp"], recipe=recipe)
    with pytest.raises(ValueError, match=fault):
        keeping(DENSE["mlp"], recipe=recipe)


# Whole runs -----------------------------------------------------------------------------------------------------------

SCENARIO = {
    "seed": 3,
    "until": {"versions": 8},
    "data": "digits",
    "model": "logistic",
    "fleet": {"clients": 9, "devices": "fedscale", "drop": 0.05},
    "local": {"steps": 3, "batch": 8, "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}}},
    "aggregator": {"fedbuff": {"concurrency": 6, "goal": 3}},
    "evaluate": {"every": "1 s"},
}
KEPT = "local.optimizer_state=kept"


@pytest.mark.parametrize("change", ["local.optimizer={adam: {}}", "aggregator=scaffold", "seed=4"])
def test_runs_are_the_same_whatever_the_executor(tmp_path, change) -> None:
    runs = {
        name: fedsim.run(SCENARIO, change, KEPT, f"executor={name}", out=tmp_path)
        for name in ("inline", "stacked", "null")
    }
    digests = {name: run.receipt["digests"]["model.safetensors"] for name, run in runs.items() if name != "null"}
    assert digests["inline"] == digests["stacked"]
    assert len({run.receipt["trace"]["sha256"] for run in runs.values()}) == 1
    fresh = fedsim.run(SCENARIO, change, out=tmp_path)
    assert fresh.receipt["digests"]["model.safetensors"] != digests["stacked"]
    assert fresh.receipt["trace"]["sha256"] == runs["stacked"].receipt["trace"]["sha256"]


def test_peers_keep_it_while_their_models_are_mixed(tmp_path) -> None:
    alone = {"aggregator": None, "peers": {"gossip": {"mixing": {"directed_pull": {"partners": 0.5}}}}}
    scenario = {key: value for key, value in (SCENARIO | alone).items() if value is not None}
    scenario |= {"fleet": {"clients": 5, "devices": "fedscale"}}
    one, two, fresh = (
        fedsim.run(scenario, *options, out=tmp_path).receipt["digests"]["model.safetensors"]
        for options in ((KEPT, "executor=inline"), (KEPT, "executor=stacked"), ())
    )
    assert one == two != fresh


def test_what_cannot_be_kept_is_refused_where_the_file_says_it() -> None:
    [arm] = read(
        SCENARIO | {"local": {"steps": 3, "optimizer": "test_optimizer_memory:adafactor", "optimizer_state": "kept"}}
    )
    with pytest.raises(ScenarioError, match=r"scenario:1: local\.optimizer_state: Adafactor has no memory"):
        assemble(arm)
    with pytest.raises(ScenarioError, match=r"optimizer_state.*'fresh' or 'kept'"):
        read(SCENARIO | {"local": {"steps": 3, "optimizer": {"sgd": {"lr": 0.1}}, "optimizer_state": "lost"}})


def test_fednova_knows_no_weights_for_momentum_that_lives_on() -> None:
    [arm] = read(SCENARIO | {"aggregator": "fednova"}, [KEPT])
    with pytest.raises(ScenarioError, match="fednova needs clients whose optimizer is sgd"):
        assemble(arm)
    assemble(*read(SCENARIO | {"aggregator": "fednova"}))
    assemble(*read(SCENARIO | {"aggregator": "fednova"}, [KEPT, "local.optimizer={sgd: {lr: 0.1}}"]))


class Shelf:
    def __init__(self) -> None:
        self.results: list[LocalResult] = []


def test_what_is_kept_can_be_saved() -> None:
    shelf, other = Shelf(), Shelf()
    memory: dict[str, Tensor | float] = {"exp_avg": torch.arange(3.0), "step": torch.tensor(4.0), "count": 2}
    shelf.results = [
        LocalResult(torch.ones(3), 1.0, kept=ClientState(torch.zeros(3), memory)),
        LocalResult(torch.ones(3), 2.0),
    ]
    restore(other, saved(shelf))
    one, two = other.results
    assert torch.equal(one.kept.drift, torch.zeros(3))  # type: ignore[arg-type]
    assert [torch.as_tensor(value).tolist() for value in one.kept.optimizer.values()] == [[0, 1, 2], 4, 2]
    assert two.kept.drift is None
    assert two.kept.optimizer == {}
