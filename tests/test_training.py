from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim.data.partitions import Parts
from fedsim.gradients import WORKING_SET, ClosedForm, Single, Vmapped, choose
from fedsim.models import MODELS, initial_params
from fedsim.optimizers import OPTIMIZERS, Recipe, sgd
from fedsim.rng import stream
from fedsim.training import Trainer, batches
from fedsim.vector import Layout
from fedsim.work import LocalResult, LocalTask

CLIENTS, CLASSES, SEED = 64, 10, 5
DENSE = {
    "logistic": lambda: MODELS["logistic"]((64,), CLASSES),
    "mlp": lambda: MODELS["mlp"]((64,), CLASSES, hidden=[7, 33]),  # rows that are not aligned in memory
    "bottleneck": lambda: MODELS["mlp"]((64,), CLASSES, hidden=[100, 1, 64]),
}
OTHERS = {
    "cnn": lambda: MODELS["cnn_mnist"]((1, 8, 8), CLASSES),
    "cnn_group": lambda: MODELS["cnn_group"]((1, 8, 8), CLASSES),
    "resnet": lambda: MODELS["resnet"]((1, 8, 8), CLASSES, width=8, blocks=(1, 1)),
    "lstm": lambda: MODELS["char_lstm"]((12,), CLASSES, vocabulary=20, hidden=16),
}
RULES = {
    "sgd": {"lr": 0.05},
    "momentum": {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam": {"weight_decay": 0.01},
    "adamw": {},
    "adagrad": {"weight_decay": 0.01},
    "rmsprop": {"momentum": 0.5},
}


def rule(name: str) -> Recipe:
    return OPTIMIZERS[{"momentum": "sgd"}.get(name, name)](**RULES[name])


def examples(shape: tuple[int, ...], count: int = 40 * CLIENTS) -> tuple[Tensor, Tensor]:
    draw = stream(0, "examples")
    x = draw.integers(20, size=(count, *shape)) if shape == (12,) else draw.standard_normal((count, *shape))
    x = x if shape == (12,) else x.astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(draw.integers(CLASSES, size=count))


def parts(held: int = 40) -> Parts:
    """Client 3 k + 1 holds but 7 examples."""
    return Parts([np.arange(40 * k, 40 * k + (7 if k % 3 == 1 else held)) for k in range(CLIENTS)])


def trainer(build, shape=(64,), recipe=None, batch=10, **arguments) -> Trainer:
    return Trainer(
        initial_params(build, 1)[0], *examples(shape), parts(), batch, recipe or sgd(0.05), SEED, **arguments
    )


def tasks(build, count: int = CLIENTS, steps=lambda client: 3 + client % 4) -> list[LocalTask]:
    params = initial_params(build, 1)[1]
    return [LocalTask(client, params * (1 + client / 100), client % 2, steps(client)) for client in range(count)]


def same(one: LocalResult, two: LocalResult) -> bool:
    return torch.equal(one.delta, two.delta) and (one.loss, one.square_loss) == (two.loss, two.square_loss)


def far(one: Tensor, two: Tensor) -> float:
    return float((one - two).norm() / one.norm())


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The law: a result is a function of its task alone ------------------------------------------------------------------


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("batch", [1, 3, 32])
def test_to_the_last_bit_alone_or_in_company_and_in_any_order(name, batch):
    work, train = tasks(DENSE[name]), trainer(DENSE[name], batch=batch)
    alone = [train([task])[0] for task in work]
    for size in (2, 17, CLIENTS):
        order = stream(size, "order").permutation(CLIENTS)[:size]
        for place, result in zip(order, train([work[place] for place in order]), strict=True):
            assert same(result, alone[place])
    assert all(map(same, trainer(DENSE[name], batch=batch, cohort=5)(work), alone))


@pytest.mark.parametrize("name", DENSE)
def test_to_the_last_bit_with_one_thread_or_two(name):
    work, train = tasks(DENSE[name], steps=lambda client: 2), trainer(DENSE[name], batch=3)
    expected = train(work)
    torch.set_num_threads(2)
    for places in (range(CLIENTS), range(2), range(2, 5), *([place] for place in range(5, 9))):
        results = train([work[place] for place in places])
        assert all(same(result, expected[place]) for place, result in zip(places, results, strict=True))


@pytest.mark.parametrize("name", RULES)
def test_each_optimizer_stacked_equals_each_client_alone(name):
    train = trainer(DENSE["mlp"], recipe=rule(name))
    work = tasks(DENSE["mlp"], 9, steps=lambda client: 5 * (client % 3))  # unequal: the finished must stand still
    assert all(map(same, train(work), [train([task])[0] for task in work]))


@pytest.mark.parametrize("name", RULES)
def test_each_optimizer_equals_torch_on_a_plain_module(name):
    work = tasks(DENSE["mlp"], 4, steps=lambda client: 2 + client)
    for task, result in zip(work, trainer(DENSE["mlp"], recipe=rule(name))(work), strict=True):
        assert far(bare_loop(DENSE["mlp"], task, rule(name), batch=10)[0], result.delta) < 1e-4  # adam divides by noise


def bare_loop(build, task: LocalTask, recipe: Recipe, batch: int) -> tuple[Tensor, list[float]]:
    """What anybody would write; and the mean loss of each step."""
    module = build()
    nn.utils.vector_to_parameters(task.params.clone(), module.parameters())
    optimizer, criterion, losses = recipe(list(module.parameters())), nn.CrossEntropyLoss(), []
    part, (x, y) = parts().indices[task.client], examples((64,))
    for rows in part[batches(SEED, task, len(part), batch)]:
        module.zero_grad(set_to_none=True)
        loss = criterion(module(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return nn.utils.parameters_to_vector(module.parameters()).detach() - task.params, losses


def test_twenty_steps_equal_a_bare_loop():
    def build() -> nn.Module:
        return MODELS["mlp"]((64,), CLASSES, hidden=[120])

    work = tasks(build, 8, steps=lambda client: 20)
    for task, result in zip(work, trainer(build)(work), strict=True):
        delta, losses = bare_loop(build, task, sgd(0.05), batch=10)
        assert far(task.params + delta, task.params + result.delta) < 1e-6
        assert far(delta, result.delta) < 1e-5
        assert result.loss == pytest.approx(np.mean(losses), rel=1e-6)
        assert result.square_loss >= result.loss**2


def test_one_clients_nonsense_does_not_spread():
    x, y = examples((64,))
    x[parts().indices[2]] = float("nan")
    train = Trainer(DENSE["mlp"](), x, y, parts(), 10, sgd(0.05), SEED)
    work = tasks(DENSE["mlp"], 8)
    sick, healthy = train(work), trainer(DENSE["mlp"])(work)
    assert sick[2].delta.isnan().any()
    assert all(same(sick[client], healthy[client]) for client in range(8) if client != 2)


def test_global_random_states_and_the_start_are_untouched():
    def states() -> tuple[object, ...]:
        return (
            random.getstate(),
            np.random.get_state(legacy=False)["state"]["key"].tolist(),
            torch.get_rng_state().tolist(),
        )

    work, before, threads = tasks(DENSE["mlp"], 3), states(), torch.get_num_threads()
    copies = [task.params.clone() for task in work]
    trainer(DENSE["mlp"], recipe=rule("adam"))(work)
    assert states() == before
    assert torch.get_num_threads() == threads
    assert all(torch.equal(copy, task.params) for copy, task in zip(copies, work, strict=True))


def test_results_do_not_keep_the_stack_in_memory():
    results = trainer(DENSE["mlp"])(tasks(DENSE["mlp"], 9))
    size = results[0].delta.numel()
    assert {result.delta.untyped_storage().nbytes() for result in results} == {4 * size}


# Sources of gradients -----------------------------------------------------------------------------------------------


def stacked_problem(build, clients: int) -> tuple[nn.Module, dict[str, Tensor], Tensor, Tensor]:
    shape = {"Sequential": (1, 8, 8), "NextToken": (12,)}[type(build()).__name__]
    module, params = initial_params(build, 1)
    matrix = torch.stack([params * (1 + client / 10) for client in range(clients)])
    x, y = examples(shape, clients * 6)
    named = {name: view.contiguous() for name, view in Layout.of(module).unflatten(matrix).items()}
    return module, named, x.unflatten(0, (clients, 6)), y.unflatten(0, (clients, 6))


def agree(stacked: dict[str, Tensor], other: dict[str, Tensor], row: slice = slice(None)) -> None:
    for name, tensor in stacked.items():
        torch.testing.assert_close(tensor[row], other[name], rtol=1e-5, atol=1e-5 * float(tensor.abs().max()))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", [*DENSE, *OTHERS])
def test_all_sources_agree(name):
    build = {**DENSE, **OTHERS}[name]
    module, params, x, y = stacked_problem(build, 3)
    grads, losses = Vmapped(module)(params, x, y)
    assert losses.shape == (3, 6)
    single = Single(module)
    for client in range(3):
        row = slice(client, client + 1)
        alone, alone_losses = single({key: value[row] for key, value in params.items()}, x[row], y[row])
        agree({**grads, "": losses}, {**alone, "": alone_losses}, row)
    if name in DENSE:
        by_hand, hand_losses = ClosedForm(module)(params, x, y)
        agree({**grads, "": losses}, {**by_hand, "": hand_losses})


def test_the_rule_looks_at_the_module_and_its_sizes_only():
    cpu = torch.device("cpu")
    small, many = choose(DENSE["logistic"](), 650, 10, cpu)
    large, few = choose(MODELS["mlp"]((784,), 10, hidden=[200, 200]), 199_210, 10, cpu)
    assert isinstance(small, ClosedForm)
    assert isinstance(large, ClosedForm)
    assert 1 < few < 16 < many
    assert few * large.working_set(199_210, 10) <= WORKING_SET
    source, cohort = choose(OTHERS["cnn"](), 1000, 10, cpu)
    assert isinstance(source, Single)
    assert cohort == 1
    assert isinstance(choose(OTHERS["cnn"](), 1000, 10, torch.device("cuda"))[0], Vmapped)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(64, 10)],
        [nn.Flatten(), nn.Linear(64, 10, bias=False)],
        [nn.Flatten(), nn.Linear(64, 10), nn.ReLU()],
        [nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)],
        [nn.Flatten(), *[nn.Linear(64, 64)] * 3],
        [],
    ],
)
def test_what_has_no_closed_form_here_goes_another_way(layers):
    assert not ClosedForm.suits(nn.Sequential(*layers))
    assert ClosedForm.suits(DENSE["mlp"]())


def test_a_module_of_any_kind_trains():
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, CLASSES))

    train = trainer(build, recipe=rule("momentum"))
    assert train.cohort == 1
    for task, result in zip(tasks(build, 3), train(tasks(build, 3)), strict=True):
        assert far(bare_loop(build, task, rule("momentum"), batch=10)[0], result.delta) < 1e-6


# Tasks --------------------------------------------------------------------------------------------------------------


def test_batches_are_permutations_one_after_another():
    task = LocalTask(3, torch.zeros(1), 0, 9)
    visits = batches(SEED, task, held=12, batch=5)
    assert visits.shape == (9, 5)
    assert np.array_equal(np.sort(visits.ravel()[:36].reshape(3, 12), axis=1), np.tile(np.arange(12), (3, 1)))
    assert np.array_equal(visits[:4], batches(SEED, LocalTask(3, torch.ones(1), 0, 4), 12, 5))  # a beginning of it
    for other in (LocalTask(4, torch.zeros(1), 0, 9), LocalTask(3, torch.zeros(1), 1, 9)):
        assert not np.array_equal(visits, batches(SEED, other, 12, 5))
    assert batches(SEED, task, held=3, batch=5).shape == (9, 3)


def test_no_steps_change_nothing():
    idle, busy = trainer(DENSE["mlp"])(tasks(DENSE["mlp"], 2, steps=lambda client: 4 * client))
    assert (idle.loss, idle.square_loss, float(idle.delta.norm())) == (0.0, 0.0, 0.0)
    assert busy.loss > 0
    assert trainer(DENSE["mlp"])([]) == []


def test_long_trainings_go_into_smaller_stacks(monkeypatch):
    work, train = tasks(DENSE["mlp"]), trainer(DENSE["mlp"])
    expected = train(work)
    monkeypatch.setattr("fedsim.training.VISITS", 100)
    assert max(map(len, train._stacks(work))) <= 2
    assert all(map(same, train(work), expected))


def test_a_client_without_examples_is_named():
    empty = Parts([np.arange(5), np.arange(0)])
    train = Trainer(DENSE["mlp"](), *examples((64,)), empty, 10, sgd(0.05), SEED)
    with pytest.raises(ValueError, match="client 1 has no examples"):
        train(tasks(DENSE["mlp"], 2))
    assert train(tasks(DENSE["mlp"], 2, steps=lambda client: 1 - client))[1].loss == 0.0


def test_clients_may_have_labels_of_their_own():
    (x, y), indices = examples((64,)), parts().indices
    swapped = (y + 1) % CLASSES
    own = Parts(indices, [(swapped if client == 1 else y)[part].numpy() for client, part in enumerate(indices)])
    model, work = DENSE["mlp"](), tasks(DENSE["mlp"], 3)
    mixed = Trainer(model, x, y, own, 10, sgd(0.05), SEED)(work)
    plain = Trainer(model, x, y, parts(), 10, sgd(0.05), SEED)(work)
    turned = Trainer(model, x, swapped, parts(), 10, sgd(0.05), SEED)(work)
    assert same(mixed[0], plain[0])
    assert same(mixed[1], turned[1])
    assert not same(mixed[1], plain[1])


class UnitSteps(torch.optim.SGD):
    """A rule that looks at a whole tensor: it must be handed each client's own, without the axis K."""

    stackable = False

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore
        for tensor in self.param_groups[0]["params"]:
            assert tensor.shape in {(7, 64), (7,), (33, 7), (33,), (10, 33), (10,)}
            tensor.sub_(0.1 * tensor.grad / tensor.grad.norm())


def test_a_rule_that_cannot_be_stacked_is_run_on_each_client_alone():
    recipe = Recipe(UnitSteps, {"lr": 1.0})
    train, work = trainer(DENSE["mlp"], recipe=recipe), tasks(DENSE["mlp"], 3)
    assert train.cohort == 1
    for task, result in zip(work, train(work), strict=True):
        assert far(bare_loop(DENSE["mlp"], task, recipe, batch=10)[0], result.delta) < 1e-6


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="nesterov"):
        sgd(0.1, nesterov=True)
    with pytest.raises(ValueError, match="BatchNorm"):
        Trainer(nn.Sequential(nn.BatchNorm1d(64)), *examples((64,)), parts(), 10, sgd(0.05), SEED)
