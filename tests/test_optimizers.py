"""One table of laws over all optimizers, and what each paper says of its own."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from test_optimizer_memory import equal
from test_training import CLASSES, DENSE, bare_loop, far, same, tasks, trainer
from torch import Tensor, nn

import fedsim
from fedsim.errors import ScenarioError
from fedsim.executors import Inline, Stacked
from fedsim.experiment import assemble
from fedsim.models import MODELS, initial_params
from fedsim.optimizers import OPTIMIZERS, AdagradNorm, Classp, Frugal, Recipe
from fedsim.optimizers.memory import state_bytes
from fedsim.optimizers.trial import check_optimizer
from fedsim.scenario import builtin, read
from fedsim.vector import Layout
from fedsim.work import LocalTask

LAWS = {name: (name, {"lr": 0.05}) for name in OPTIMIZERS if name != "sgd"} | {
    "sgd": ("sgd", {"lr": 0.05, "momentum": 0.9}),
    "classp": ("classp", {"threshold": 1e-5}),
    "frugal: short gaps": ("frugal", {"gap": 2, "density": 0.5}),
    "frugal: rows": ("frugal", {"projector": "rows", "gap": 3, "density": 0.4, "reset": False}),
    "frugal: randk": ("frugal", {"projector": "randk", "gap": 3, "free": "sgd"}),
    "frugal: blocks": ("frugal", {"projector": "blocks", "gap": 2, "density": 0.5, "free": "none"}),
    "frugal: ascending": ("frugal", {"projector": "blocks", "order": "ascending", "gap": 2, "density": 0.5}),
    "frugal: mirror": ("frugal", {"projector": "blocks", "order": "mirror", "gap": 1, "density": 0.5}),
    "frugal: svd": ("frugal", {"projector": "svd", "gap": 2, "density": 0.5}),
    "frugal: nothing full": ("frugal", {"density": 0.0}),
    "classp: two phases": ("classp", {"plain": 1, "threshold": 1e-5}),
    "classp: power 2": ("classp", {"power": 2.0, "threshold": -1.0, "lr": 0.01}),
    "classp: power 3": ("classp", {"power": 3.0, "threshold": 0.0, "lr": 0.01}),
    "classp: committed": ("classp", {"gate": "committed"}),
    "torch.optim:NAdam": ("torch.optim:NAdam", {"lr": 0.01}),
    "torch.optim:Adafactor": ("torch.optim:Adafactor", {"lr": 0.01}),
}
EACH = pytest.mark.parametrize("law", LAWS)
ALONE = {
    "frugal: blocks",
    "frugal: ascending",
    "frugal: mirror",
    "frugal: svd",
    "classp: power 3",
    "torch.optim:Adafactor",
}
FORGETS = {"torch.optim:Adafactor"}
"""Their memory cannot be kept."""


def recipe(law: str) -> Recipe:
    name, arguments = LAWS[law]
    schema = builtin().adopting({"optimizer": name})
    checked = schema.choice("optimizer").model_validate({name: arguments})
    return schema.build(checked, {"seed": 5}, ("optimizer",), str)


# Laws -----------------------------------------------------------------------------------------------------------------


@EACH
def test_a_stack_is_each_client_alone_to_the_bit_and_one_client_is_enough(law) -> None:
    made = recipe(law)
    assert made.stackable == (law not in ALONE)
    train = trainer(DENSE["mlp"], recipe=made)
    work = tasks(DENSE["mlp"], 9, steps=lambda client: 3 * (client % 3))  # the finished stand still
    together = train(work)
    assert all(map(same, together, [train([task])[0] for task in work]))
    assert all(map(same, together, reversed(train(work[::-1]))))
    for task, result in zip(work, together, strict=True):
        assert bool(result.delta.any()) == bool(task.steps)  # no steps, the same model


@EACH
def test_the_trial_agrees(law) -> None:
    made, layout = recipe(law), Layout.of(DENSE["mlp"]())
    check_optimizer(made, layout, made.stackable)
    if law == "torch.optim:Adafactor":
        with pytest.raises(ValueError, match="say stackable = False"):
            check_optimizer(made, layout, True)


@EACH
def test_what_is_kept_goes_on_in_any_company(law) -> None:
    """Trainings of unequal lengths, some of none, one after another; stacked, alone, and in fresh trainers."""
    if law in FORGETS:
        with pytest.raises(ValueError, match="has no memory that could be kept"):
            trainer(DENSE["mlp"], recipe=recipe(law), keeps=True)
        return
    train, params = trainer(DENSE["mlp"], recipe=recipe(law), keeps=True), initial_params(DENSE["mlp"], 1)[1]
    found = []
    for executor in (Inline(train), Stacked(train, worth=64, row_bytes=4, synchronous=False)):
        kept, results = {}, []
        for ordinal in range(3):
            for client in range(5):
                task = LocalTask(client, params * (1 + client / 10), ordinal, (client + 2 * ordinal) % 4)
                results.append(executor.submit(task, due=ordinal, after=kept.get(client)))
                kept[client] = results[-1].keep()
        found.append([deferred.result() for deferred in results[::-1]])
    assert all(map(equal, *found))


@EACH
def test_global_random_states_are_untouched(law) -> None:
    def states() -> tuple[object, ...]:
        keys = np.random.get_state(legacy=False)["state"]["key"]
        return random.getstate(), keys.tolist(), torch.get_rng_state().tolist()

    train = trainer(DENSE["mlp"], recipe=recipe(law))
    before = states()
    train(tasks(DENSE["mlp"], 2))
    check_optimizer(recipe(law), train.layout, train.stackable)
    assert states() == before


SCENARIO = {
    "seed": 3,
    "until": {"versions": 2},
    "data": "digits",
    "model": {"mlp": {"hidden": [6, 6]}},
    "fleet": {"clients": 4, "devices": "fedscale"},
    "local": {"steps": 3, "batch": 8},
    "aggregator": {"fedbuff": {"concurrency": 3, "goal": 2}},
    "evaluate": {"every": "1 h"},
}


@EACH
def test_executors_agree(law, tmp_path) -> None:
    name, arguments = LAWS[law]
    local = {**SCENARIO["local"], "optimizer": {name: arguments}}
    local |= {} if law in FORGETS else {"optimizer_state": "kept"}
    runs = [fedsim.run(SCENARIO | {"local": local, "executor": kind}, out=tmp_path / kind, picture=False)
            for kind in ("inline", "stacked", "null")]  # fmt: skip
    digests = [run.receipt["digests"]["model.safetensors"] for run in runs[:2]]
    assert digests[0] == digests[1]
    assert len({run.receipt["trace"]["sha256"] for run in runs}) == 1
    assert len({run.receipt["optimizer_state_bytes"] for run in runs}) == 1
    assert read(runs[1].scenario)[0].digest == runs[1].receipt["scenario"]  # what is resolved reads the same


@EACH
def test_each_works_alone_in_an_ordinary_loop(law) -> None:
    """The parameters of a plain module, without the axis K: a client's own training, but for what it draws."""
    made = recipe(law)
    [task] = tasks(DENSE["mlp"], 1, steps=lambda client: 6)
    task = replace(task, ordinal=1 if "two phases" in law else 0)  # a loop of one's own is past the plain ones
    [result] = trainer(DENSE["mlp"], recipe=made)([task])
    assert far(bare_loop(DENSE["mlp"], task, made, batch=10)[0], result.delta) < 1e-3


@pytest.mark.parametrize("make", [partial(Frugal, gap=3), partial(Frugal, gap=3, projector="svd"), Classp, AdagradNorm])
def test_a_loop_that_is_saved_goes_on_as_if_it_had_not_stopped(make) -> None:
    one, two = matrices(), matrices()
    walk(rule := make(one), one, 5)
    walk(first := make(two), two, 2)
    second = make(two)
    second.load_state_dict(deepcopy(first.state_dict()))
    draws = torch.Generator().manual_seed(2)
    for step in range(5):
        slopes = [torch.randn(tensor.shape, generator=draws) for tensor in two]
        if step >= 2:
            for tensor, slope in zip(two, slopes, strict=True):
                tensor.grad = slope
            second.step()
    assert all(map(torch.equal, one, two))
    for a, b in zip(one, two, strict=True):
        kinds = [{key: value.dtype for key, value in state.items()} for state in (rule.state[a], second.state[b])]
        assert kinds[0] == kinds[1]


# What cannot be -------------------------------------------------------------------------------------------------------


class UnitLength(torch.optim.Optimizer):
    """Steps of one length in each tensor: not element-wise, and does not say so."""

    def __init__(self, params, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):  # pyright: ignore
        for tensor in self.param_groups[0]["params"]:
            tensor.sub_(self.param_groups[0]["lr"] * tensor.grad / tensor.grad.norm())


class Saying(UnitLength):
    stackable = False


@pytest.mark.parametrize(
    ("optimizer", "fault"),
    [
        ("test_optimizers:UnitLength", r"local.optimizer: test_optimizers:UnitLength: a step on .* say stackable"),
        ({"torch.optim:NAdam": {"lr": -1}}, r"optimizer: torch.optim:NAdam: it cannot take a step: Invalid learning"),
        ("torch.optim:LBFGS", "cannot take a step: .*closure"),
        ("torch.optim:SparseAdam", "cannot take a step: .*dense gradients"),
        ("torch.optim:Muon", "cannot take a step: Muon only supports 2D"),
        ({"torch.optim:NAdam": {"rl": 1}}, r"local.optimizer.torch.optim:NAdam.rl: there is no key 'rl'"),
        ({"torch.optim:NAdam": {"foreach": True}}, "there is no key 'foreach' here"),
        ({"torch.optim:NAdam": {"lr": "much"}}, "lr: Input should be a valid number"),
        ({"frugal": {"density": 2}}, "frugal.density: Input should be less than or equal to 1"),
        ({"frugal": {"projector": "colums"}}, "'columns', 'rows', 'randk', 'blocks' or 'svd'"),
        ({"frugal": {"order": "mirror"}}, "cannot take a step: only the projector blocks has an order, not columns"),
        ({"frugal": {"projector": "blocks", "reset": False}}, "step: .* blocks below density 1 need reset"),
        ({"frugal": {"projector": "blocks", "order": "up"}}, "'random', 'ascending', 'descending' or 'mirror'"),
        ({"classp": {"power": 0.1}}, r"cannot take a step: eps\^\(1/power\) has to be a normal number"),
        ("frugl", "did you mean frugal"),
        ("torch.optim:Nope", "cannot load 'torch.optim:Nope'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_with_its_place(optimizer, fault) -> None:
    with pytest.raises(ScenarioError, match=fault) as caught:
        assemble(*read(SCENARIO | {"local": {**SCENARIO["local"], "optimizer": optimizer}}))
    assert "\n" not in str(caught.value)


def test_who_says_so_is_trained_alone() -> None:
    [arm] = read(SCENARIO | {"local": {**SCENARIO["local"], "optimizer": {"test_optimizers:Saying": {"lr": 0.5}}}})
    made = assemble(arm).trainer
    assert (made.stackable, made.cohort) == (False, 1)
    assert made.optimizer.arguments == {"lr": 0.5}


# FRUGAL ---------------------------------------------------------------------------------------------------------------


def matrices(count: int = 3, shape: tuple[int, ...] = (6, 8)) -> list[Tensor]:
    """The last one is taken for the output layer."""
    draws = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=draws) for _ in range(count)]


def walk(optimizer: torch.optim.Optimizer, params: list[Tensor], steps: int, seed: int = 2) -> None:
    draws = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for tensor in params:
            tensor.grad = torch.randn(tensor.shape, generator=draws)
        optimizer.step()


def walked(optimizer: type[torch.optim.Optimizer], steps: int, **arguments) -> list[Tensor]:
    params = matrices()
    walk(optimizer(params, **arguments), params, steps)
    return params


@pytest.mark.parametrize("projector", ["columns", "rows", "randk", "blocks"])  # rotations change AdamW
def test_all_of_it_without_reset_is_adamw_and_with_reset_is_not(projector) -> None:
    adamw = walked(torch.optim.AdamW, 50, lr=0.01, weight_decay=0.1)
    full = walked(Frugal, 50, lr=0.01, weight_decay=0.1, density=1.0, gap=10, projector=projector, reset=False)
    again = walked(Frugal, 50, lr=0.01, weight_decay=0.1, density=1.0, gap=10, projector=projector)
    assert max(float((a - b).abs().max()) for a, b in zip(adamw, full, strict=True)) < 1e-6
    assert float((adamw[0] - again[0]).abs().max()) > 1e-3
    assert torch.equal(full[2], again[2])  # what is always full never starts afresh


@pytest.mark.parametrize(("free", "wanted"), [("sign", torch.sign), ("sgd", lambda g: g), ("none", lambda g: 0 * g)])
def test_none_of_it_is_the_free_rule(free, wanted) -> None:
    [before, *_], params = matrices(), matrices()
    walk(Frugal(params, lr=0.01, density=0.0, free=free, scale=0.5, weight_decay=0.0), params, 1)
    assert params[0].grad is not None
    torch.testing.assert_close(params[0], before - 0.01 * 0.5 * wanted(params[0].grad), rtol=0, atol=1e-7)


@pytest.mark.parametrize("projector", ["columns", "rows", "randk"])
def test_chosen_entries_go_by_adamw_and_the_others_by_the_free_rule(projector) -> None:
    before, params = matrices(), matrices()
    rule = Frugal(params, lr=0.01, density=0.3, projector=projector, weight_decay=0.0)
    walk(rule, params, 1)
    places = rule.state[params[0]]["chosen"].long()
    chosen = torch.zeros(6, 8, dtype=torch.bool)
    if projector == "randk":
        chosen.view(-1)[places] = True
    else:
        chosen[(slice(None), places) if projector == "columns" else places] = True
    assert int(chosen.sum()) == {"columns": 2 * 6, "rows": 1 * 8, "randk": 14}[projector]
    assert rule.state[params[0]]["exp_avg"].numel() == int(chosen.sum())
    change, slope = params[0] - before[0], params[0].grad
    assert slope is not None
    torch.testing.assert_close(change, -0.01 * slope.sign(), rtol=0, atol=1e-6)  # as both are, at a first step
    walk(rule, params, 1, seed=3)
    second = params[0] - before[0] - change
    assert torch.allclose(second[~chosen].abs(), torch.tensor(0.01), atol=1e-6)
    assert not torch.allclose(second[chosen].abs(), torch.tensor(0.01), atol=1e-4)
    assert float((second[chosen].abs() - 0.01).abs().min()) > 0


@pytest.mark.parametrize("projector", ["columns", "rows", "randk", "blocks"])
def test_without_a_free_rule_other_entries_stay_until_the_next_gap(projector) -> None:
    start, params = matrices(5), matrices(5)
    rule = Frugal(params, density=0.5, projector=projector, free="none", gap=3, weight_decay=0.0)
    still = []
    for _ in range(2):
        before = [tensor.clone() for tensor in params]
        walk(rule, params, 3)
        still.append(torch.stack([after == former for after, former in zip(params[:4], before, strict=False)]))
        assert int(still[-1].sum()) == 4 * 48 // 2
    assert not torch.equal(*still)
    assert (params[4] != start[4]).all()


@pytest.mark.parametrize("shape", [(6, 8), (8, 6)])
def test_singular_parts_and_the_rest_are_orthogonal(shape) -> None:
    start, params = matrices(2, shape), matrices(2, shape)
    rule = Frugal(params, lr=0.01, density=0.5, projector="svd", free="none", weight_decay=0.0)
    walk(rule, params, 1)
    slope = params[0].grad
    assert slope is not None
    basis, change = rule.state[params[0]]["chosen"], params[0] - start[0]
    if shape[0] > shape[1]:
        basis, change, slope = basis.mT, change.mT, slope.mT
    torch.testing.assert_close(basis.mT @ basis, torch.eye(3))
    torch.testing.assert_close(basis @ (basis.mT @ change), change, atol=1e-6, rtol=0)
    kept, values = basis.mT @ slope, torch.linalg.svdvals(slope)
    assert float(kept.square().sum()) == pytest.approx(float(values[:3].square().sum()), rel=1e-5)
    torch.testing.assert_close(change, -0.01 * basis @ kept.sign(), atol=1e-5, rtol=0)


def test_a_new_gap_starts_moments_and_their_count_afresh() -> None:
    params = matrices()
    rule = Frugal(params, lr=0.01, density=1.0, gap=4, weight_decay=0.0)
    walk(rule, params, 4)
    before = params[0].clone()
    walk(rule, params, 1, seed=9)
    assert params[0].grad is not None
    torch.testing.assert_close(params[0], before - 0.01 * params[0].grad.sign(), rtol=0, atol=1e-6)


def test_which_tensors_have_moments_in_full() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 3))
    groups = [{"params": list(model[0].parameters()), "projectable": False},
              {"params": list(model[2].parameters())}, {"params": list(model[3].parameters())}]  # fmt: skip
    for rule, full in ((Frugal(model.parameters()), [1, 3, 4, 5]), (Frugal(groups), [0, 1, 3, 4, 5])):
        model(torch.ones(1, 2, 4, 4)).sum().backward()
        rule.step()
        for place, tensor in enumerate(model.parameters()):
            whole = tensor.numel() if place in full else {0: 4 * 4, 2: 8 * 4}[place]
            assert rule.state[tensor]["exp_avg"].numel() == whole
    rule = Frugal([{"params": list(model.parameters()), "projectable": True}], density=0.5)
    rule.step()
    assert rule.state[model[3].weight]["exp_avg"].shape == (3, 4)


@pytest.mark.parametrize("projector", ["columns", "rows", "randk", "svd"])
def test_channels_last_is_the_same(projector) -> None:
    ends = []
    for kind in (torch.contiguous_format, torch.channels_last):
        params = [tensor.to(memory_format=kind) for tensor in matrices(2, (4, 3, 2, 2))]
        walk(Frugal(params, lr=0.1, density=0.5, projector=projector), params, 3)
        ends.append(params[0].clone())
    assert torch.equal(*ends)


def test_choices_are_each_clients_own_each_trainings_and_each_gaps() -> None:
    def places(client: int, ordinal: int, seed: int = 0, steps: int = 1) -> list[int]:
        params = matrices(2, (2, 40))
        rule = Frugal(params, density=0.3, gap=1)
        rule.begin([LocalTask(client, torch.zeros(0), ordinal, 1)], seed, stacked=False)
        walk(rule, params, steps)
        return rule.state[params[0]]["chosen"].flatten().tolist()

    every = [places(0, 0), places(1, 0), places(0, 1), places(0, 0, seed=1), places(0, 0, steps=2)]
    assert len(set(map(tuple, every))) == len(every)
    assert places(0, 0) == every[0]


def remembered(rule: Frugal, params: list[Tensor]) -> list[int]:
    """Which of the projectable tensors have moments now."""
    return [place for place, tensor in enumerate(params[:-1]) if rule.state[tensor]["chosen"].numel()]


@pytest.mark.parametrize(
    ("order", "wanted"),
    [
        ("ascending", [[0, 1], [2, 3], [4]] * 3),
        ("descending", [[3, 4], [1, 2], [0]] * 3),
        ("mirror", [[0, 1], [2, 3], [4], [4], [2, 3], [0, 1], [0, 1], [2, 3], [4]]),
    ],
)
def test_in_a_fixed_order_each_tensor_has_its_turn_once_a_cycle(order, wanted) -> None:
    for seed, client in ((0, 0), (1, 7)):  # whose it is does not matter
        params, found = matrices(6), []
        rule = Frugal(params, density=0.4, projector="blocks", order=order, gap=2, free="none", weight_decay=0.0)
        rule.begin([LocalTask(client, torch.zeros(0), 0, 18)], seed, stacked=False)
        for step in range(18):
            before = [tensor.clone() for tensor in params[:-1]]
            walk(rule, params, 1, seed=step)
            found.append(remembered(rule, params))
            assert found[-1] == [place for place, old in enumerate(before) if (params[place] != old).any()]
        assert found[::2] == found[1::2] == wanted


def test_drawn_blocks_are_each_clients_own() -> None:
    def drawn(client: int) -> list[list[int]]:
        params = matrices(6)
        rule = Frugal(params, density=0.4, projector="blocks", gap=1)
        rule.begin([LocalTask(client, torch.zeros(0), 0, 6)], 0, stacked=False)
        found = []
        for step in range(6):
            walk(rule, params, 1, seed=step)
            found.append(remembered(rule, params))
        return found

    assert drawn(0) == drawn(0) != drawn(1)
    assert all(len(each) == 2 for each in drawn(0))


@pytest.mark.parametrize("keeps", [True, False])
def test_a_fixed_order_goes_on_from_training_to_training(keeps) -> None:
    """Also where nothing is kept; else a client would have the first tensors for ever."""
    arguments = {"projector": "blocks", "order": "ascending", "gap": 2, "density": 0.4, "free": "none",
                 "weight_decay": 0.0}  # fmt: skip
    build = partial(MODELS["mlp"], (64,), CLASSES, hidden=[8] * 5)
    train, params = trainer(build, recipe=Recipe(Frugal, arguments), keeps=keeps), initial_params(build, 1)[1]
    found, kept = [], None
    for ordinal in range(4):
        task = LocalTask(0, params, ordinal, 2)
        [result] = train([replace(task, kept=kept) if kept else task])
        kept = result.kept if keeps else None
        moved = train.layout.unflatten(result.delta)
        matrices = [tensor for tensor in moved.values() if tensor.dim() == 2][:-1]
        found.append([place for place, tensor in enumerate(matrices) if tensor.any()])
    assert found == [[0, 1], [2, 3], [4], [0, 1]]


def test_no_share_is_no_tensor_in_any_order() -> None:
    for order in ("random", "ascending", "descending", "mirror"):
        params = matrices(6)
        rule = Frugal(params, density=0.0, projector="blocks", order=order)
        walk(rule, params, 2)
        assert remembered(rule, params) == []


def test_it_remembers_what_it_says_and_a_stack_no_more_a_client() -> None:
    layout = Layout.of(small())
    inner, full = 64 * 32, 32 + 32 * CLASSES + CLASSES

    def nbytes(**arguments) -> int:
        return state_bytes(Recipe(Frugal, arguments), layout, True)

    assert nbytes(density=0.0) == 4 * (2 * full + 4)  # moments; a count for each of four tensors
    assert nbytes(density=0.25) == 4 * (2 * full + 4 + 2 * inner // 4 + 16)  # and 16 columns by number
    assert nbytes(density=0.25, projector="randk") == 4 * (2 * full + 4 + 3 * inner // 4)
    assert state_bytes(Recipe(torch.optim.AdamW, {}), layout, True) == 4 * (2 * (full + inner) + 4)
    train = trainer(small, recipe=Recipe(Frugal, {"density": 0.25}), keeps=True)
    for result in train(tasks(small, 4, steps=lambda client: 2)):
        kept = result.kept.optimizer
        assert sum(torch.as_tensor(value).untyped_storage().nbytes() for value in kept.values()) == nbytes() - 4 * 3
        assert kept["exp_avg/1.weight"].shape == (32, 16)


def small() -> nn.Module:
    return MODELS["mlp"]((64,), CLASSES, hidden=[32])


# CLASSP ---------------------------------------------------------------------------------------------------------------


def test_power_two_without_threshold_is_adagrad() -> None:
    adagrad = walked(torch.optim.Adagrad, 20, lr=0.1, eps=1e-10)
    found = walked(Classp, 20, lr=0.1, power=2.0, threshold=-1.0, eps=1e-20)
    assert max(float((a - b).abs().max()) for a, b in zip(adagrad, found, strict=True)) < 1e-5


def test_without_decay_it_is_sgd_that_remembers() -> None:
    sgd = walked(torch.optim.SGD, 5, lr=0.1)
    params = matrices()
    rule = Classp(params, lr=0.1, threshold=-1.0, decay=False)
    walk(rule, params, 5)
    assert max(float((a - b).abs().max()) for a, b in zip(sgd, params, strict=True)) < 1e-6
    assert all((rule.state[tensor]["sum"] > 0).all() for tensor in params)


def test_at_the_threshold_weights_stay() -> None:
    start, params = matrices(1), matrices(1)
    params[0].grad = torch.tensor([0.5, 0.50001, -0.5, -0.50001, 0, 0.4, 2, 3]).expand(6, 8).clone()
    Classp(params, threshold=0.25).step()
    assert (params[0] != start[0])[0].tolist() == [False, True, False, True, False, False, True, True]


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_below_the_threshold_weights_and_memory_stay(power) -> None:
    params = matrices()
    rule = Classp(params, power=power, threshold=0.5)
    past = torch.zeros(6, 8)
    for seed in range(4):
        before = params[0].clone()
        walk(rule, params, 1, seed=seed)
        assert params[0].grad is not None
        closed = params[0].grad.square() <= 0.5
        assert torch.equal(params[0] == before, closed)
        now = rule.state[params[0]]["sum"].clone()
        assert torch.equal(now == past, closed)
        assert (now >= past).all()
        past = now


def test_a_constant_gradient_makes_harmonic_steps() -> None:
    tensor = torch.zeros(1)
    rule = Classp([tensor], lr=0.2, threshold=0.0, eps=1e-12)
    for step in range(1, 6):
        before = tensor.clone()
        tensor.grad = torch.tensor([-3.0])
        rule.step()
        assert float(tensor - before) == pytest.approx(0.2 * 3 / (3 * step), rel=1e-5)


def test_the_committed_gate_is_that_of_the_published_class() -> None:
    """Written from its description: any g^2 that is not 0, as 1 or 0, against the threshold; S sums |g|."""
    for threshold, power in ((0.5, 2.0), (1.0, 1.0), (-1.0, 4.0)):
        params, wanted, past = matrices(2), matrices(2), [torch.zeros(6, 8) for _ in range(2)]
        rule = Classp(params, lr=0.1, power=power, threshold=threshold, gate="committed")
        for seed in range(3):
            for place, tensor in enumerate(params):
                draws = torch.Generator().manual_seed(seed)
                tensor.grad = torch.randn(6, 8, generator=draws) * place  # the first one's is 0 throughout
                if float(place > 0) > threshold:
                    past[place] += tensor.grad.abs()
                    wanted[place] -= 0.1 * tensor.grad / (past[place] + 1e-5).pow(1 / power)
            rule.step()
        for tensor, end in zip(params, wanted, strict=True):
            torch.testing.assert_close(tensor, end, rtol=1e-5, atol=1e-6)


def test_two_phases_are_plain_trainings_and_then_decayed_ones() -> None:
    """Also where a stack has clients in both."""
    train = trainer(DENSE["mlp"], recipe=Recipe(Classp, {"lr": 0.1, "threshold": -1.0, "plain": 1}), keeps=True)
    plain = trainer(DENSE["mlp"], recipe=OPTIMIZERS["sgd"](0.1))
    params = initial_params(DENSE["mlp"], 1)[1]
    first, second = LocalTask(0, params, 0, 4), LocalTask(0, params, 1, 4)
    one, two = train([first, second])
    assert far(plain([first])[0].delta, one.delta) < 1e-5
    assert far(plain([second])[0].delta, two.delta) > 0.1
    [warm] = train([replace(second, kept=one.kept)])
    assert float(warm.delta.norm()) < float(two.delta.norm())


# AdaGrad-Norm ---------------------------------------------------------------------------------------------------------


def test_one_rate_for_all_parameters() -> None:
    params, wanted, total = matrices(), matrices(), 0.1**2
    rule = AdagradNorm(params, lr=0.5, b0=0.1)
    for seed in range(4):
        walk(rule, params, 1, seed=seed)
        slopes = [tensor.grad for tensor in params if tensor.grad is not None]
        total += sum(float(slope.double().square().sum()) for slope in slopes)
        for end, slope in zip(wanted, slopes, strict=True):
            end -= 0.5 * slope / total**0.5
    for tensor, end in zip(params, wanted, strict=True):
        torch.testing.assert_close(tensor, end, rtol=1e-5, atol=1e-6)


def test_its_steps_do_not_depend_on_the_losss_scale() -> None:
    ends = []
    for scale in (1.0, 1024.0):
        params = matrices(2)
        rule = AdagradNorm(params, lr=0.5)
        for seed in range(3):
            for tensor in params:
                tensor.grad = scale * torch.randn(6, 8, generator=torch.Generator().manual_seed(seed))
            rule.step()
        ends.append(params[0])
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-7)


def test_each_client_has_a_number_of_its_own_and_clients_of_different_numbers_share_a_stack() -> None:
    train = trainer(DENSE["mlp"], recipe=Recipe(AdagradNorm, {}), keeps=True)
    work = tasks(DENSE["mlp"], 4)
    left = train(work)
    numbers = [[*result.kept.optimizer.items()] for result in left]
    assert all(len(each) == 1 and each[0][1].dim() == 0 for each in numbers)
    assert len({float(each[0][1]) for each in numbers}) == 4
    again = [replace(task, ordinal=2, steps=2, kept=result.kept) for task, result in zip(work, left, strict=True)]
    assert len(list(train._stacks(again))) == 2  # one for each size of a batch


def test_a_loop_may_give_a_closure() -> None:
    for kind in (Frugal, Classp, AdagradNorm):
        tensor = torch.ones(3, requires_grad=True)
        rule = kind([tensor], lr=0.1)

        def closure(tensor=tensor, rule=rule) -> Tensor:
            rule.zero_grad()
            loss = tensor.square().sum()
            loss.backward()
            return loss

        assert rule.step(closure) == 3
        assert float(tensor.detach().square().sum()) < 3
