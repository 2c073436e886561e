"""Distilled images in place of models: made as the paper says, priced as they are, learnt from by the server."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.aggregators import CDA
from fedsim.answers.crops import LEAST_PIXELS, Crops, Curriculum
from fedsim.answers.recovery import Recovery
from fedsim.answers.teacher import Teacher
from fedsim.errors import ScenarioError
from fedsim.models import MODELS
from fedsim.models.normalisation import norms
from fedsim.rng import stream
from fedsim.trace import ARRIVE, TRAIN
from fedsim.wire.codec import generator
from fedsim.work import LocalTask

SHAPE = (1, 8, 8)
IPC, VIEWS, STEPS = 1, 3, 6
DIGITS = {
    "seed": 3,
    "until": {"versions": 1},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.2}}}},
    "model": {"mlp": {"hidden": [16], "norm": "batch"}},
    "fleet": {"clients": 4, "devices": {"constant": {"per_example": "1 ms"}}},
    "local": {"steps": 5, "batch": 16, "optimizer": {"adam": {"lr": 0.01}}},
    "aggregator": {
        "cda": {"cohort": "all", "ipc": IPC, "views": VIEWS, "epochs": 2, "recover": {"steps": STEPS, "jitter": 1}}
    },
    "evaluate": {"every": "1 h"},
}


def assembled(*overrides: str) -> Any:
    [arm] = scenario.read(DIGITS, overrides)
    return experiment.assemble(arm)


def run(*overrides: str) -> tuple[Any, Any]:
    """The experiment, and its simulation when it has run."""
    whole = assembled(*overrides)
    simulation = whole.simulation(Recording())
    simulation.run()
    return whole, simulation


def answers(*overrides: str) -> tuple[Any, Any]:
    """The experiment, and its clients' part."""
    whole = assembled(*overrides)
    return whole, whole.simulation(Recording()).aggregator.answers


def tasks(whole: Any, *steps: int) -> list[LocalTask]:
    return [LocalTask(client, whole.params, 0, count) for client, count in enumerate(steps)]


def teacher(name: str = "resnet", **arguments: Any) -> Teacher:
    """Untrained, with the statistics of random images."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        sizes = arguments or {"width": 8, "blocks": (1,)}
        model = MODELS[name](shape=SHAPE, classes=10, norm="batch", **sizes)
    named = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return Teacher.of(model, named, images(64))


def images(count: int) -> Tensor:
    return torch.from_numpy(stream(1, "images").random((count, *SHAPE))).float()


# The curriculum and its crops -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("milestone", [1.0, 0.5])
def test_crops_become_smaller_from_the_whole_image_to_the_smallest(kind, milestone) -> None:
    curriculum = Curriculum(kind, milestone)
    least = [curriculum.least(step / 100) for step in range(101)]
    assert least[0] == 1
    assert all(share == pytest.approx(0.08) for share in least[round(100 * milestone) :])
    assert all(later < sooner for sooner, later in pairwise(least[: round(100 * milestone) + 1]))


def test_half_way_a_cosine_and_a_line_are_in_the_middle_and_a_quarter_of_the_way_they_are_not() -> None:
    cosine, line = Curriculum("cosine"), Curriculum("linear")
    assert cosine.least(0.5) == pytest.approx(0.54) == line.least(0.5)
    assert cosine.least(0.25) == pytest.approx(0.08 + 0.92 * (1 + 2**-0.5) / 2)
    assert line.least(0.25) == pytest.approx(0.77)


@pytest.mark.parametrize("kind", ["cosine", "linear", "step"])
def test_without_a_milestone_it_is_sre2l(kind) -> None:
    times = [0.0, 0.3, 1.0]
    assert [Curriculum(kind, 0.0).least(time) for time in times] == [0.08] * 3
    assert [Curriculum("constant").least(time) for time in times] == [0.08] * 3


def test_the_other_kinds() -> None:
    times = [0.0, 0.25, 0.75, 1.0]
    reverse, cosine = (Curriculum(kind) for kind in ("reverse", "cosine"))
    assert [reverse.least(time) for time in times] == [cosine.least(1 - time) for time in times]
    assert [Curriculum("none").least(time) for time in times] == [1.0] * 4
    assert [Curriculum("step", 0.5).least(time) for time in times] == [1, 1, 0.08, 0.08]


def test_a_crop_of_everything_is_the_image() -> None:
    crops, x = Crops(8, 8, flip=False), images(5)
    torch.testing.assert_close(crops.cut(x, crops.drawn(5, 1.0, generator(1, "crops"))), x)


def test_a_mirrored_crop_of_everything_is_the_image_mirrored_half_the_time() -> None:
    crops, x = Crops(8, 8, flip=True), images(60)
    cut = crops.cut(x, crops.drawn(60, 1.0, generator(1, "crops")))
    same = [torch.allclose(*pair, atol=1e-5) for pair in zip(cut, x, strict=True)]
    mirrored = [torch.allclose(*pair, atol=1e-5) for pair in zip(cut, x.flip(3), strict=True)]
    assert all(one != other for one, other in zip(same, mirrored, strict=True))
    assert 15 < sum(mirrored) < 45


@pytest.mark.parametrize("least", [0.08, 0.5])
def test_crops_lie_within_the_image_and_are_no_smaller_than_is_said(least) -> None:
    boxes = Crops(8, 8, flip=False).drawn(2000, least, generator(1, "crops"))
    sides, centres = boxes[:, [0, 1], [0, 1]], boxes[:, :, 2]
    assert sides.min() >= LEAST_PIXELS / 8 - 1e-6
    assert (sides + centres.abs()).max() <= 1 + 1e-6
    area = sides.prod(1)
    assert area.min() >= least - 1e-5
    assert area.mean() == pytest.approx((1 + least) / 2, rel=0.05)
    assert (sides[:, 0] / sides[:, 1]).max() <= 4 / 3 + 1e-5


def test_a_crop_shows_what_is_there() -> None:
    """A quarter of an image, in the upper left, stretched: linear brightness stays linear."""
    x = torch.arange(8.0).repeat(8, 1).expand(1, 1, 8, 8)
    box = torch.tensor([[[0.5, 0, -0.5], [0, 0.5, -0.5]]])
    cut = Crops(8, 8, flip=False).cut(x, box)
    torch.testing.assert_close(cut[0, 0, 0, 1:], torch.arange(1, 8) / 2 - 0.25)


# The teacher and recovery ---------------------------------------------------------------------------------------------


def test_images_with_the_teachers_statistics_cost_nothing_and_others_what_the_paper_says() -> None:
    judge, x = teacher(), images(40)
    inputs: list[Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for layer in norms(judge.model)]
    scores, apart = judge.judged(x)
    for hook in hooks:
        hook.remove()
    assert len(apart) == len(judge.statistics) == 3
    for own, layer, (mean, variance) in zip(apart, inputs, judge.statistics, strict=True):
        expected = (layer.mean((0, 2, 3)) - mean).norm() + (layer.var((0, 2, 3), unbiased=False) - variance).norm()
        torch.testing.assert_close(own, expected)
    same = Teacher(judge.model, judge.named, [(i.mean((0, 2, 3)), i.var((0, 2, 3), unbiased=False)) for i in inputs])
    assert float(same.judged(x)[1][0]) == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(judge.scores(x), scores)


def test_what_an_image_costs_is_the_papers_loss() -> None:
    judge, x, y = teacher(), images(10), torch.arange(10)
    scores, apart = judge.judged(x)
    expected = functional.cross_entropy(scores, y) + 0.3 * (10 * apart[0] + apart[1] + apart[2])
    torch.testing.assert_close(Recovery(match=0.3).loss(judge, x, y), expected)


def test_an_image_is_judged_alike_in_any_company() -> None:
    """Fixed statistics: not those of the batch."""
    judge, x = teacher(), images(12)
    torch.testing.assert_close(judge.scores(x)[:1], judge.scores(x[:1]))


def test_the_teacher_stays_as_it_is() -> None:
    judge = teacher()
    before = (
        {name: value.clone() for name, value in judge.named.items()},
        [pair[0].clone() for pair in judge.statistics],
    )
    Recovery(steps=3).run(judge, torch.arange(10), SHAPE, generator(1, "x"))
    assert all(torch.equal(judge.named[name], value) for name, value in before[0].items())
    assert all(torch.equal(pair[0], value) for pair, value in zip(judge.statistics, before[1], strict=True))
    assert all(layer.fixed is None and layer.collected is None for layer in norms(judge.model))
    assert not any(layer._forward_pre_hooks for layer in norms(judge.model))


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_pixels_stay_within_bounds_after_each_step(steps) -> None:
    x = Recovery(steps=steps, lr=2.0).run(teacher(), torch.arange(10), SHAPE, generator(1, "x"))
    assert x.min() >= 0
    assert x.max() <= 1
    assert not x.requires_grad


def taught() -> Teacher:
    """By digits."""
    whole = assembled("fleet.clients=1")
    [result] = whole.trainer(tasks(whole, 60))
    named = whole.layout.unflatten(whole.params + result.delta)
    return Teacher.of(whole.evaluator.model, named, whole.trainer.x)


def test_images_come_to_look_like_their_classes() -> None:
    judge, y = taught(), torch.arange(30) % 10
    how: dict[str, Any] = {"match": 0.05, "jitter": 0, "flip": False, "curriculum": Curriculum("none")}
    few, many = (Recovery(steps=steps, **how).run(judge, y, SHAPE, generator(1, "x")) for steps in (1, 100))
    assert Recovery(**how).loss(judge, many, y) < 0.2 * Recovery(**how).loss(judge, few, y)
    assert (judge.scores(many).argmax(1) == y).all()


def test_statistics_are_matched_where_they_count() -> None:
    judge, y, apart = taught(), torch.arange(20) % 10, []
    for match in (0.0, 1.0):
        x = Recovery(steps=60, match=match, jitter=0, flip=False).run(judge, y, SHAPE, generator(1, "x"))
        apart.append(float(judge.judged(x)[1][0]))
    assert apart[1] < 0.7 * apart[0]


def test_the_same_seed_makes_the_same_images() -> None:
    judge, y = teacher("mlp", hidden=[16]), torch.arange(10)
    one, same, other = (Recovery(steps=4).run(judge, y, SHAPE, generator(seed, "x")) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# Clients --------------------------------------------------------------------------------------------------------------


def test_what_a_client_sends_depends_on_its_task_alone() -> None:
    whole, own = answers()
    together = tasks(whole, 5, 2, 0, 4)
    stacked = own(together)
    for task, result in zip(together, stacked, strict=True):
        [alone] = own([task])
        assert torch.equal(alone.delta, result.delta)
        assert alone.loss == result.loss
    assert not torch.equal(stacked[0].delta, stacked[1].delta)


def test_clients_distil_the_classes_that_they_hold_evenly() -> None:
    whole, own = answers("aggregator.cda.ipc=2")
    seen: list[Tensor] = []

    class Spy(Recovery):
        def run(self, teacher, y, shape, draw):
            seen.append(y)
            return torch.zeros(len(y), *shape)

    object.__setattr__(own, "recovery", Spy())
    own(tasks(whole, 1, 1, 1, 1))
    held = [np.unique(whole.trainer.y[part].numpy()) for part in whole.trainer.parts.indices]
    assert min(map(len, held)) < 10
    for classes, y in zip(held, seen, strict=True):
        counts = np.bincount(y, minlength=10)
        assert set(np.flatnonzero(counts)) == set(classes)
        assert counts[classes].max() - counts[classes].min() <= 1
        assert counts.sum() == 2 * 10


def test_labels_are_what_the_clients_own_model_says_of_the_crops_that_the_server_sees() -> None:
    whole, own = answers()
    [task] = tasks(whole, 5)
    [trained], [result] = whole.trainer([task]), own([task])
    x, y = own.lesson(result.delta, task.client, task.version)
    assert x.shape == (10 * IPC * VIEWS, *SHAPE)
    held = whole.trainer.x[whole.trainer.parts.indices[0]]
    judge = Teacher.of(own.model, whole.layout.unflatten(task.params + trained.delta), held)
    torch.testing.assert_close(judge.scores(x).softmax(1), y)
    assert result.loss == trained.loss


def test_every_message_has_crops_of_its_own() -> None:
    _, own = answers()
    seen = [own.seen(images(10), client, version) for client, version in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert torch.equal(seen[0], seen[1])
    assert not any(torch.equal(seen[0], other) for other in seen[2:])


def test_statistics_are_those_of_the_clients_own_examples() -> None:
    judge, x = teacher(), images(64)
    first = norms(judge.model)[0]
    inputs: list[Tensor] = []
    hook = first.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    judge.scores(x)
    hook.remove()
    torch.testing.assert_close(judge.statistics[0][0], inputs[0].mean((0, 2, 3)))


# The server -----------------------------------------------------------------------------------------------------------


def test_one_round_is_one_shot_and_more_go_on() -> None:
    setting = ["local.steps=40", "aggregator.cda.ipc=3", "aggregator.cda.views=8", "aggregator.cda.epochs=5",
               "aggregator.cda.recover={steps: 40, jitter: 0, flip: false, match: 0.1}",
               "aggregator.cda.smallest=0.3", "aggregator.cda.optimizer={adam: {lr: 0.003}}"]  # fmt: skip
    accuracies = []
    for versions in (1, 4):
        whole, simulation = run(*setting, f"until.versions={versions}")
        accuracies.append(whole.evaluator(simulation.aggregator.params).metrics["accuracy"])
    assert accuracies[0] > 0.4
    assert accuracies[1] > accuracies[0] + 0.05


def test_a_student_that_does_not_train_leaves_the_model_where_it_is() -> None:
    whole, simulation = run("aggregator.cda.optimizer={sgd: {lr: 1.0e-30}}")
    torch.testing.assert_close(simulation.aggregator.params, whole.params, rtol=0, atol=1e-20)


def test_the_servers_step_can_be_shortened() -> None:
    (whole, full), (_, half) = run(), run("aggregator.cda.lr=0.5")
    start = whole.params
    torch.testing.assert_close(half.aggregator.params - start, (full.aggregator.params - start) / 2)


def test_global_randomness_is_not_touched() -> None:
    before = torch.get_rng_state()
    run()
    assert torch.equal(before, torch.get_rng_state())


# What it costs --------------------------------------------------------------------------------------------------------


def test_messages_are_images_and_soft_labels_and_making_them_takes_time() -> None:
    whole, simulation = run()
    assert {row[4] for row in simulation.trace.of(ARRIVE)} == {4 * 10 * IPC * (64 + VIEWS * 10)}
    assert {row[4] for row in simulation.trace.of(TRAIN)} == {4 * whole.layout.size}
    held = whole.trainer.parts.sizes[1]
    third = held + 10 * IPC * (2 * STEPS + VIEWS)
    assert simulation.work.seen[1] == 5 * 16 + -(-third // 3)


def test_time_and_traffic_are_known_without_an_answer() -> None:
    whole = assembled("until.versions=2")
    real, foreseen = (whole.simulation(Recording(), timing_only=null) for null in (False, True))
    for each in (real, foreseen):
        each.run()
    assert real.trace.digest() == foreseen.trace.digest()


def test_optimizers_may_go_on_where_they_were() -> None:
    kept = run("until.versions=2", "local.optimizer_state=kept")[1].aggregator.params
    assert not torch.equal(kept, run("until.versions=2")[1].aggregator.params)


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model={mlp: {hidden: [16]}}"], "cda: images are matched to statistics of BatchNorm"),
        (["data={points: {clients: 4, dimension: 3, spread: 1.0}}"], "cda: it makes pictures of classes"),
        (["data={digits: {partition: {dirichlet: {alpha: 0.01, smallest: 0}}}}", "fleet.clients=20", "local.steps=null",
          "local.epochs=1"], "cda: a client without examples has nothing to distil"),
        (["local.private={clip: 1.0, multiplier: 1.0}"], "local.private: "),
        (["local.personal=norms"], "local.personal: clients of this aggregator send what is made of their model"),
        (["local.shrink={factor: 0.5, every: 1}"], "local.shrink: clients of this aggregator send what is made"),
        (["local.objective={adversarial: {radius: 0.1, step: 0.1, steps: 1}}"], "local.objective: clients of this"),
        (["wire={codec: sign}"], "wire: clients of this aggregator send no changes of a model"),
        (["adversaries={share: 0.3, lie: sign_flip}"], "adversaries.lie: lies are about changes of a model"),
        (["network={tree: {edges: 2}}", "edges={aggregator: fedavg}"], "edges: they sum up changes of models"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(overrides, message) -> None:
    with pytest.raises(ScenarioError, match=message) as refused:
        assembled(*overrides)
    assert len(str(refused.value).splitlines()) == 1


def test_whoever_is_poisoned_distils_what_it_has_learnt() -> None:
    honest, poisoned = (run(*how)[1].aggregator for how in ([], ["adversaries={share: 0.5, poison: label_flip}"]))
    assert isinstance(honest, CDA)
    assert not torch.equal(honest.params, poisoned.params)
