"""Corrections of local training: what they add, in whose company, and what a client's trainings leave to its next."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from weakref import ref

import numpy as np
import pytest
import torch
from test_server import rough
from test_training import CLASSES, DENSE, OTHERS, SEED, examples, far, parts, rule, trainer
from test_training import tasks as plain_tasks
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from worlds import train as worlds_train

from fedsim.aggregators import SCAFFOLD
from fedsim.data.partitions import Parts
from fedsim.drift import ControlVariates, Drift, Proximal
from fedsim.errors import TrainingFailed
from fedsim.executors import Inline, Null, Stacked
from fedsim.gradients import Vmapped
from fedsim.models import initial_params
from fedsim.optimizers import Recipe, sgd
from fedsim.rng import stream
from fedsim.selection import Uniform
from fedsim.trace import ARRIVE, LEAVE, LOST, TRAIN, UPLOAD, VERSION
from fedsim.training import Trainer, batches
from fedsim.units import SECOND
from fedsim.work import STATELESS, ClientState, Deferred, LocalResult, LocalTask

DRIFTS = {"proximal": Proximal(0.5), "variates": ControlVariates()}
CORRECTED = pytest.mark.parametrize("drift", DRIFTS.values(), ids=DRIFTS.keys())


def noise(like: Tensor, *name: object) -> Tensor:
    return torch.from_numpy(stream(6, *name).standard_normal(len(like)) * 0.05).float()


def tasks(build, count: int = 9, steps=lambda client: 2 * (client % 4)) -> list[LocalTask]:
    """Of unequal length, some none; every third client trains for the first time."""
    return [
        replace(
            task, sent=noise(task.params, "sent"), kept=ClientState(noise(task.params, client) if client % 3 else None)
        )
        for client, task in enumerate(plain_tasks(build, count, steps))
    ]


def numbers(result: LocalResult) -> tuple[Tensor | None, ...]:
    return result.delta, result.kept.drift, result.extra, torch.tensor([result.loss, result.square_loss])


def same(one: LocalResult, two: LocalResult) -> bool:
    pairs = list(zip(numbers(one), numbers(two), strict=True))
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


# What is added --------------------------------------------------------------------------------------------------------


def by_hand(module: nn.Module, task: LocalTask, recipe: Recipe, drift: Drift, shape=(64,)) -> tuple[Tensor, Tensor]:
    """What anybody would write: the change, and the mean of the plain gradients on the way."""
    nn.utils.vector_to_parameters(task.params.clone(), module.parameters())
    params, total = list(module.parameters()), torch.zeros_like(task.params)
    optimizer, (x, y) = recipe(params), examples(shape)
    own = torch.zeros_like(task.params) if task.kept.drift is None else task.kept.drift
    part = parts().indices[task.client]
    for rows in part[batches(SEED, task, len(part), 10)]:
        grads = torch.autograd.grad(cross_entropy(module(x[rows]), y[rows]), params)
        flat = torch.cat([grad.flatten() for grad in grads])
        total += flat
        here = nn.utils.parameters_to_vector(params).detach()
        pull = drift.mu * (here - task.params) if isinstance(drift, Proximal) else task.sent - own
        nn.utils.vector_to_parameters(flat + pull, [gradient_of(param) for param in params])
        optimizer.step()
    return nn.utils.parameters_to_vector(params).detach() - task.params, total / max(1, task.steps)


def gradient_of(param: Tensor) -> Tensor:
    param.grad = torch.zeros_like(param)
    return param.grad


@CORRECTED
@pytest.mark.parametrize("name", ["sgd", "momentum"])
@pytest.mark.parametrize("model", [*DENSE, "cnn", "lstm"])
def test_a_corrected_training_is_a_loop_anybody_would_write(drift, name, model) -> None:
    build, shape = {**DENSE, **OTHERS}[model], {"cnn": (1, 8, 8), "lstm": (12,)}.get(model, (64,))
    work = tasks(build, 4, steps=lambda client: 2 + client)
    for task, result in zip(work, trainer(build, shape, rule(name))(work, drift), strict=True):
        delta, mean = by_hand(build(), task, rule(name), drift, shape)
        assert far(delta, result.delta) < 1e-5
        if isinstance(drift, ControlVariates):
            assert far(mean, result.kept.drift) < 1e-5
            own = torch.zeros_like(mean) if task.kept.drift is None else task.kept.drift
            assert far(mean - own, result.extra) < 1e-5
        else:
            assert result.kept.drift is result.extra is None


class TwoBiases(nn.Module):
    """Autograd gives both biases one gradient in one place, and `idle` one that is a single number."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(64, CLASSES))
        self.one, self.two, self.idle = (nn.Parameter(torch.zeros(CLASSES)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.slope + (self.one + self.two) + self.idle.sum()


@CORRECTED
def test_gradients_that_share_memory_are_corrected_once_each(drift) -> None:
    params = initial_params(TwoBiases, 1)[1]
    task = LocalTask(0, params, 0, 4, sent=noise(params, "sent"), kept=ClientState(noise(params, "kept")))
    [result] = trainer(TwoBiases)([task], drift)
    assert far(by_hand(TwoBiases(), task, sgd(0.05), drift)[0], result.delta) < 1e-6


def test_the_variates_are_the_papers_option_ii() -> None:
    """c_i - c + (x - y_i) / (K lr), and its change over c_i."""
    work = [task for task in tasks(DENSE["mlp"], 12) if task.steps]
    for task, result in zip(work, trainer(DENSE["mlp"], recipe=sgd(0.05))(work, ControlVariates()), strict=True):
        own = torch.zeros_like(task.params) if task.kept.drift is None else task.kept.drift
        option_ii = own - task.sent - result.delta / (task.steps * 0.05)
        assert far(option_ii, result.kept.drift) < 1e-5
        assert far(result.kept.drift - own, result.extra) < 1e-6


def test_a_pull_of_zero_and_equal_variates_change_not_a_bit() -> None:
    train, work = trainer(DENSE["mlp"]), tasks(DENSE["mlp"])
    work = [replace(task, kept=ClientState(task.sent)) for task in work]
    for drift in (Proximal(0.0), ControlVariates()):
        for plain, corrected in zip(train(work), train(work, drift), strict=True):
            assert torch.equal(plain.delta, corrected.delta)
            assert plain.loss == corrected.loss


def test_a_strong_pull_holds_the_client_back() -> None:
    train, work = trainer(DENSE["mlp"], recipe=sgd(0.05)), tasks(DENSE["mlp"], 1, steps=lambda client: 20)
    lengths = [float(train(work, Proximal(mu))[0].delta.norm()) for mu in (0.0, 0.1, 1.0, 10.0)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0] / 5


# In whose company -----------------------------------------------------------------------------------------------------


@CORRECTED
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("model", DENSE)
def test_to_the_last_bit_alone_or_in_company(drift, name, model) -> None:
    train, work = trainer(DENSE[model], recipe=rule(name)), tasks(DENSE[model])
    alone = [train([task], drift)[0] for task in work]
    assert len({task.steps for task in work}) == 4
    assert all(map(same, train(work, drift), alone))
    assert all(map(same, train(work[::-1], drift), alone[::-1]))
    assert all(map(same, trainer(DENSE[model], recipe=rule(name), cohort=2)(work, drift), alone))


@CORRECTED
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vectorised_clients_are_corrected_as_each_alone(drift) -> None:
    single, stacked = (trainer(OTHERS["cnn"], (1, 8, 8), rule("momentum")) for _ in range(2))
    stacked.gradients, stacked.cohort = Vmapped(OTHERS["cnn"]()), 4
    work = tasks(OTHERS["cnn"], 4, steps=lambda client: 1 + client)
    for one, two in zip(single(work, drift), stacked(work, drift), strict=True):
        pairs = zip(numbers(one), numbers(two), strict=True)
        assert all(a is b is None or far(a, b) < 1e-5 for a, b in pairs)


def test_what_is_left_does_not_keep_the_stack_in_memory() -> None:
    for result in trainer(DENSE["mlp"])(tasks(DENSE["mlp"]), ControlVariates()):
        for vector in (result.delta, result.kept.drift, result.extra):
            assert vector.untyped_storage().nbytes() == 4 * vector.numel()


# A client's trainings, one after another ------------------------------------------------------------------------------


def chains(executor, build, clients: int = 5, length: int = 4) -> list[list[Deferred]]:
    """Each client's trainings, each to go on from the one before; all pending at once if the executor allows."""
    params, kept, found = initial_params(build, 1)[1], {}, []
    for ordinal in range(length):
        found.append([])
        for client in range(clients):
            task = LocalTask(client, params, ordinal, 1 + (client + ordinal) % 3, noise(params, "sent", ordinal))
            deferred = executor.submit(task, due=100 * ordinal - client, after=kept.get(client))
            kept[client] = deferred.keep()
            found[-1].append(deferred)
    return found


class Watched:
    """Trains, and notes who trained together."""

    def __init__(self, train: Trainer):
        self.train, self.calls = train, []

    def __call__(self, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        self.calls.append([(task.client, task.ordinal) for task in tasks])
        return self.train(tasks, ControlVariates())


def stacked(train, worth: int = 64) -> Stacked:
    return Stacked(train, worth=worth, row_bytes=4, synchronous=False)


@pytest.mark.parametrize("worth", [1, 3, 64])
@pytest.mark.parametrize("order", ["forth", "back", "last"])
def test_pending_trainings_of_one_client_are_the_same_as_one_after_another(worth, order) -> None:
    expected = chains(Inline(Watched(trainer(DENSE["mlp"]))), DENSE["mlp"])
    watched = Watched(trainer(DENSE["mlp"]))
    executor = stacked(watched, worth)
    pending = chains(executor, DENSE["mlp"])
    rows = {"forth": [0, 1, 2, 3], "back": [3, 2, 1, 0], "last": [3]}[order]
    for row in rows:
        for deferred in pending[row]:
            deferred.result()
    for row, plain in zip(pending, expected, strict=True):
        assert all(same(one.result(), other.result()) for one, other in zip(row, plain, strict=True))
    assert executor.trained == sum(map(len, watched.calls)) == 20
    trained = [key for call in watched.calls for key in call]
    assert sorted(trained) == sorted(set(trained)), "nothing is trained twice"
    for client in range(5):
        assert [ordinal for who, ordinal in trained if who == client] == [0, 1, 2, 3]
    for call in watched.calls:
        assert len({client for client, _ in call}) == len(call) <= worth


def test_forerunners_come_along_though_nobody_reads_them() -> None:
    watched = Watched(trainer(DENSE["mlp"]))
    executor = stacked(watched, worth=1)
    pending = chains(executor, DENSE["mlp"])
    last = pending[3][2]
    del pending
    last.result()
    assert watched.calls == [[(2, 0)], [(2, 1)], [(2, 2)], [(2, 3)]]
    assert executor.trained == 4


def test_nothing_old_is_held_by_what_it_has_left() -> None:
    """Neither the deferred training nor its numbers; a chain of any length keeps one vector."""
    for make in (Inline, stacked):
        executor, params = make(Watched(trainer(DENSE["mlp"]))), initial_params(DENSE["mlp"], 1)[1]
        first = executor.submit(LocalTask(0, params, 0, 2), due=1)
        kept = first.keep()
        second = executor.submit(LocalTask(0, params, 1, 2), due=2, after=kept)
        later = second.keep()
        second.result()
        gone = [ref(first), ref(first.result().delta), ref(second), ref(second.result().delta)]
        made = later.state.drift
        del first, second, kept
        gc.collect()
        assert [one() for one in gone] == [None] * 4
        assert later.maker is None
        assert later.state.drift is made is not None


def test_who_fails_among_forerunners_is_named_and_not_those_who_wait_for_it() -> None:
    def train(tasks: Sequence[LocalTask]) -> list[LocalResult]:
        if any((task.client, task.ordinal) == (3, 1) for task in tasks):
            raise RuntimeError("out of luck")
        return Watched(trainer(DENSE["logistic"]))(tasks)

    pending = chains(stacked(train), DENSE["logistic"])
    with pytest.raises(TrainingFailed, match=r"client 3 \(its training number 1\).*RuntimeError: out of luck"):
        pending[3][0].result()


def test_a_forerunner_that_diverges_is_named() -> None:
    def train(tasks: Sequence[LocalTask]) -> list[LocalResult]:
        results = Watched(trainer(DENSE["logistic"]))(tasks)
        return [
            replace(result, loss=float("nan")) if (task.client, task.ordinal) == (4, 2) else result
            for task, result in zip(tasks, results, strict=True)
        ]

    pending = chains(stacked(train), DENSE["logistic"])
    with pytest.raises(TrainingFailed, match=r"client 4 \(its training number 2\).*diverged"):
        pending[3][4].result()


def test_the_null_executor_leaves_nothing() -> None:
    executor = Null(LocalResult(torch.zeros(0), 0.0, extra=torch.zeros(0)))
    pending = chains(executor, DENSE["logistic"])
    assert pending[3][0].keep().state is STATELESS


# Through the whole simulation -----------------------------------------------------------------------------------------


class Diary:
    """A training rule of one line that goes on from what was kept; and what each training went on from."""

    def __init__(self) -> None:
        self.went_on: dict[tuple[int, int], tuple[float, ...] | None] = {}
        self.left: dict[tuple[int, int], tuple[float, ...]] = {}
        self.sent: dict[tuple[int, int], Tensor] = {}

    def __call__(self, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        results = []
        for task, plain in zip(tasks, worlds_train(tasks), strict=True):
            own = torch.zeros_like(task.params) if task.kept.drift is None else task.kept.drift
            kept = 0.5 * own + task.params - task.client / 7
            key = task.client, task.ordinal
            self.went_on[key] = None if task.kept.drift is None else tuple(task.kept.drift.tolist())
            self.left[key] = tuple(kept.tolist())
            self.sent[key] = task.sent
            results.append(
                replace(plain, delta=plain.delta + 0.01 * (own - task.sent), kept=ClientState(kept), extra=kept - own)
            )
        return results


MAKERS = {
    "over-selecting": partial(SCAFFOLD, cohort=6, goal=3),
    "deadline": partial(SCAFFOLD, cohort=6, deadline=3 * SECOND),
    "everybody": partial(SCAFFOLD, cohort="all"),
}
SIMULATED = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@SIMULATED
def test_scaffold_is_the_same_whatever_the_executor(make) -> None:
    """On a fleet whose clients come too late, go away and fail."""
    inline, stack, null = (
        rough(make, executor, train=Diary(), select=Uniform(seed=8)) for executor in ("inline", "stacked", "null")
    )
    assert inline.trace.rows == stack.trace.rows == null.trace.rows
    assert torch.equal(inline.aggregator.params, stack.aggregator.params)
    assert torch.equal(inline.aggregator.variate, stack.aggregator.variate)
    assert float(inline.aggregator.variate.norm()) > 0
    assert 0 == null.world.executor.trained < stack.world.executor.trained <= inline.world.executor.trained
    assert all(inline.trace.of(kind) for kind in (ARRIVE, LEAVE, LOST, VERSION))


@SIMULATED
def test_a_training_goes_on_from_the_clients_last_one_that_was_finished(make) -> None:
    """That one may have been too late, or its upload lost; what was cut short in mid-training leaves nothing."""
    diary = Diary()
    world = rough(make, "inline", train=diary)
    begun, finished, cut = [0] * 12, [None] * 12, 0
    for _, kind, client, *_ in world.trace.of(TRAIN, UPLOAD):
        if kind == TRAIN:
            cut += begun[client] > 0 and finished[client] != (client, begun[client] - 1)
            begun[client] += 1
            key = client, begun[client] - 1
            if key in diary.went_on:  # else it failed
                assert diary.went_on[key] == (finished[client] and diary.left[finished[client]])
        else:
            finished[client] = client, begun[client] - 1
    assert cut > 3
    assert sum(begun) > len(diary.went_on) > 100


@SIMULATED
def test_what_comes_with_the_model_is_of_the_same_version(make) -> None:
    diary, sent = Diary(), {}

    class Noted(SCAFFOLD):
        @property
        def sent(self) -> Tensor:
            return sent.setdefault(self.version, self.variate)

    world = rough(partial(Noted, **make.keywords), "inline", train=diary)
    begun = [0] * 12
    for _, _, client, version, *_ in world.trace.of(TRAIN):
        assert diary.sent.get((client, begun[client]), sent[version]) is sent[version]
        begun[client] += 1
    assert len(set(map(id, diary.sent.values()))) > 30


def test_scaffolds_stacked_diary_is_a_part_of_the_inline_one() -> None:
    """Nothing is trained that nobody goes on from, and what is trained went on from the same."""
    one, two = Diary(), Diary()
    rough(MAKERS["over-selecting"], "inline", train=one)
    rough(MAKERS["over-selecting"], "stacked", train=two)
    assert two.went_on.items() <= one.went_on.items()
    assert len(two.went_on) < len(one.went_on)


def test_variates_are_told_apart_by_what_they_come_from() -> None:
    """Hand-computed: one weight, one example, c = 1, c_i = 3, so every gradient has 2 less."""
    x, y = torch.ones(1, 1), torch.zeros(1, dtype=torch.int64)
    module = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    train = Trainer(module, x, y, Parts([np.arange(1)]), 1, sgd(0.5), SEED)
    zero = torch.zeros(4)
    task = LocalTask(0, zero, 0, 1, sent=torch.ones(4), kept=ClientState(torch.full((4,), 3.0)))
    [result] = train([task], ControlVariates())
    gradient = torch.tensor([-0.5, 0.5, -0.5, 0.5])  # softmax gives each class a half
    assert torch.allclose(result.delta, -0.5 * (gradient - 2))
    assert torch.allclose(result.kept.drift, gradient)
    assert torch.allclose(result.extra, gradient - 3)
