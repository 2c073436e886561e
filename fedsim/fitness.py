"""Whether a local step fits the data, the model and itself: what does not is refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fedsim.data import Dataset
from fedsim.errors import ScenarioError
from fedsim.exams import Exam
from fedsim.gradients.along import recurrent
from fedsim.models import check_scores, initial_params
from fedsim.models.gan import Gan
from fedsim.models.normalisation import norms
from fedsim.objectives import FedRBN, Odice, Players, Tent
from fedsim.optimizers import Recipe
from fedsim.optimizers.trial import check_optimizer
from fedsim.personal import personal_names
from fedsim.probes import Cleaning, Continual
from fedsim.sources import Backpropagation, BoRep, Eggroll, Game, Sar
from fedsim.steps.rule import Learning
from fedsim.vector import Layout
from fedsim.wiring import refuse_wire

if TYPE_CHECKING:
    from fedsim.answers import Answers
    from fedsim.scenario import Arm


def learned(arm: Arm, given: Mapping[str, Any], dataset: Dataset) -> tuple[nn.Module, Tensor]:
    """The model, and its start (P,). ScenarioError if clients could not train it on these data."""
    try:
        model, params = initial_params(lambda: arm.build(given, "model"), arm.learning_seed)
        check_scores(model, dataset.x[:2])
    except ScenarioError:
        raise
    except ValueError as error:
        raise ScenarioError(f"{arm.place(('model',))}: model: {arm.keys.model.name}: {error}") from None
    return model, params


def refuse_unfit(arm: Arm, local: Any, dataset: Dataset, model: nn.Module) -> None:
    """ScenarioError where something of a local step does not fit."""
    refuse_further(arm, local, dataset, model)
    refuse_objective(arm, local, dataset, model)
    refuse_source(arm, local)
    refuse_rules(arm, local, dataset)
    refuse_probe(arm, local, model)
    refuse_growth(arm, local, model)
    refuse_unprotected(arm, local, model)
    refuse_optimizer(arm, local, Layout.of(model))


def refuse_further(arm: Arm, local: Any, dataset: Dataset, model: nn.Module) -> None:
    """ScenarioError where a model gives more scores than are read, or fewer."""
    wanted = dataset.outputs + (0 if local.objective is None else local.objective.further)
    with torch.no_grad():
        given = model(dataset.x[:1]).shape[1]
    if given != wanted:
        raise ScenarioError(f"{arm.place(('model',))}: model: {arm.keys.model.name} gives {given} scores, where "
                            f"{wanted} are read, {wanted - dataset.outputs} of them beside outputs")  # fmt: skip


def refuse(arm: Arm, key: str, faults: Mapping[str, bool]) -> None:
    """ScenarioError with the first of these sentences about a key of a local step that is true."""
    for why in [why for why, true in faults.items() if true]:
        raise ScenarioError(f"{arm.place(('local', key))}: local.{key}: {why}")


def refuse_objective(arm: Arm, local: Any, dataset: Dataset, model: nn.Module) -> None:
    """ScenarioError where what clients are to minimise is not for these data, or gives away what noise should hide."""
    objective = local.objective
    refuse(arm, "source", {"game and the objective players go together: players' losses are no sum to be minimised":
                           isinstance(objective, Players) != isinstance(local.source, Game)})  # fmt: skip
    if objective is None:
        return
    name, fedrbn, private = arm.keys.local.objective.name, isinstance(objective, FedRBN), local.private is not None
    refuse(arm, "objective", {
        f"{name} is for classes, which these data do not have": objective.classes and not dataset.has_classes,
        f"{name} learns from walks, such as grid_world's": isinstance(objective, Odice) and not dataset.walks,
        f"{name} is for models with BatchNorm, such as resnet": fedrbn and not norms(model),
        f"{name} has two batches a step, which a control would take for one": fedrbn and local.control is not None,
        f"{name} has two batches a step, whose statistics a population would take for one's":
            fedrbn and isinstance(local.source, Eggroll),
        f"{name} need a model of two, such as gan": isinstance(objective, Players) and not isinstance(model, Gan),
        f"with {name} every gradient of a client depends on {objective.discloses}, which local.private gives no noise":
            private and objective.discloses is not None,
        f"{name} adds up {objective.losses} losses, each of which local.private would clip by itself":
            private and objective.losses > 1,
    })  # fmt: skip
    if isinstance(objective, Tent):
        refuse_adaptation(arm, local)


def refuse_adaptation(arm: Arm, local: Any) -> None:
    """ScenarioError where more than what is each client's own would move."""
    refuse(arm, "personal", {"tent adapts what stays with clients: say norms": local.personal is None})
    refuse(arm, "optimizer_state", {"tent needs a fresh optimizer, as a memory would move what is not adapted":
                                    local.optimizer_state != "fresh"})  # fmt: skip
    refuse(arm, "optimizer", {"tent leaves alone what is not adapted: take sgd without decay":
                              not undecayed(local.optimizer)})  # fmt: skip


def undecayed(optimizer: Any) -> bool:
    """Whether it is SGD, and does not move what has no gradient."""
    plain = isinstance(optimizer, Recipe) and optimizer.kind is torch.optim.SGD
    return plain and not optimizer.arguments.get("weight_decay")


def personal(arm: Arm, local: Any, model: nn.Module) -> tuple[str, ...]:
    """The parameters that stay with clients, by name. ScenarioError if there are no such, or no others."""
    try:
        return personal_names(model, local.personal)
    except ValueError as error:
        raise ScenarioError(f"{arm.place(('local', 'personal'))}: local.personal: {error}") from None


@torch.no_grad()
def exam(arm: Arm, model: nn.Module, dataset: Dataset) -> Exam:
    """What else models are to be asked. ScenarioError if this one cannot be."""
    made = arm.build({"seed": arm.keys.seed}, "evaluate", "exam")
    try:
        made.refuse(model, dataset)
    except ValueError as error:
        raise ScenarioError(f"{arm.place(('evaluate', 'exam'))}: evaluate.exam: {error}") from None
    return made


def refuse_source(arm: Arm, local: Any) -> None:
    """ScenarioError where a source is not for what clients minimise."""
    refuse(arm, "source", {"sar adapts without labels: it is for objective tent":
                           isinstance(local.source, Sar) and not isinstance(local.objective, Tent)})  # fmt: skip
    if isinstance(local.source, BoRep):
        still = undecayed(local.optimizer) and not local.optimizer.arguments.get("momentum")
        refuse(arm, "optimizer", {"borep's models stand still between periods: take sgd without momentum and decay":
                                  not still})  # fmt: skip
        refuse(arm, "objective", {"borep weights the loss of the examples as they are": local.objective is not None})


def refuse_rules(arm: Arm, local: Any, dataset: Dataset) -> None:
    """ScenarioError where steps are to be as long as scores of classes allow, and there are none, or others too."""
    further = local.objective is not None and local.objective.further > 0
    for key in ("schedule", "control"):
        classes = getattr(getattr(local, key), "classes", False)
        name = getattr(getattr(arm.keys.local, key), "name", "")
        refuse(arm, key, {
            f"{name} is for classes, which these data do not have": classes and not dataset.has_classes,
            f"{name} takes all that a model gives for scores of classes, but this one gives further ones":
                classes and further,
        })  # fmt: skip


def refuse_probe(arm: Arm, local: Any, model: nn.Module) -> None:
    """ScenarioError where a probe cannot look at these data, or at this model."""
    if local.probe is None:
        return
    name = arm.keys.local.probe.name
    refuse(arm, "probe", {
        f"{name} {local.probe.lacks}": bool(local.probe.lacks),
        f"{name} judges models without BatchNorm, which takes its statistics of whatever batch it is judged on":
            isinstance(local.probe, Continual) and bool(norms(model)),
        f"{name} looks at the weights of source borep":
            isinstance(local.probe, Cleaning) and not isinstance(local.source, BoRep),
    })  # fmt: skip


def refuse_growth(arm: Arm, local: Any, model: nn.Module) -> None:
    """ScenarioError where batches are to grow by gradients of single examples, which steps are not made of."""
    if local.growth is None:
        return
    name, losses = arm.keys.local.growth.name, 1 if local.objective is None else local.objective.losses
    refuse(arm, "growth", {
        f"{name}: a model with BatchNorm has no gradients of one example at a time, which it tests": bool(norms(model)),
        f"{name}: it tests the gradients of the loss itself: take source: backpropagation":
            type(local.source) is not Backpropagation,
        f"{name}: it tests the gradients of one loss, and the objective adds up {losses}": losses > 1,
        f"{name}: a schedule that is learnt step by step has no steps to rely on": isinstance(local.schedule, Learning),
        f"{name}: a probe looks between steps, and nobody knows how many there will be": local.probe is not None,
    })  # fmt: skip


def refuse_unprotected(arm: Arm, local: Any, model: nn.Module) -> None:
    """ScenarioError where clipped gradients get noise, but steps depend on the examples in other ways too."""
    if local.private is None:
        return
    ways = {"source": type(local.source) is not Backpropagation, "control": local.control is not None,
            "growth": local.growth is not None}  # fmt: skip
    for key, said in ways.items():
        refuse(arm, key, {"with it steps depend on examples in a way that local.private gives no noise": said})
    refuse(arm, "private", {"its gradients are of one example at a time, which no BatchNorm can learn from":
                            bool(norms(model))})  # fmt: skip


def refuse_optimizer(arm: Arm, local: Any, layout: Layout) -> None:
    """ScenarioError where clients are to be trained by what takes no steps, or treats a stack as one model."""
    stackable = getattr(local.optimizer, "stackable", True) and arm.keys.coding is None
    try:
        check_optimizer(local.optimizer, layout, stackable)
    except ValueError as error:
        name = arm.keys.local.optimizer.name
        raise ScenarioError(f"{arm.place(('local', 'optimizer'))}: local.optimizer: {name}: {error}") from None


USUAL = {"objective": None, "personal": None, "private": None, "shrink": None, "control": None, "probe": None,
         "growth": None, "schedule": "constant", "source": "backpropagation"}  # fmt: skip
"""What a local step is, where nothing else is said."""


def refuse_unusual(arm: Arm, why: str, *keys: str) -> None:
    """ScenarioError if a local step is to be unlike the plainest, in one of these keys or in any."""
    for key in keys or USUAL:
        said = getattr(arm.keys.local, key)
        if getattr(said, "name", said) != USUAL[key]:
            raise ScenarioError(f"{arm.place(('local', key))}: local.{key}: {why}")


def refuse_beside(arm: Arm, answers: Answers) -> None:
    """ScenarioError where something takes what clients send for changes of a model, or would never be asked for."""
    refuse_wire(arm, "clients of this aggregator send no changes of a model", but=["adversaries"])
    if arm.keys.adversaries is not None and arm.keys.adversaries.lie is not None:
        raise ScenarioError(f"{arm.place(('adversaries', 'lie'))}: adversaries.lie: lies are about changes of a model, "
                            "which clients of this aggregator do not send")  # fmt: skip
    if arm.keys.executor.name == "remote":
        raise ScenarioError(
            f"{arm.place(('executor',))}: executor.remote: clients of this aggregator do more than train"
        )
    if answers.trains:
        refuse_unusual(arm, "clients of this aggregator send what is made of their model and examples",
                       "objective", "personal", "private", "shrink")  # fmt: skip
        return
    if arm.keys.local.steps != 1:
        raise ScenarioError(f"{arm.place(('local',))}: local: clients of this aggregator take no local steps, but one "
                            "of their own kind: it has to say steps: 1")  # fmt: skip
    refuse_unusual(arm, "clients of this aggregator take no local steps")


def refuse_far(arm: Arm, model: nn.Module) -> None:
    """ScenarioError where what trains changes while a run goes on, so that workers elsewhere would not know; or where
    workers that are threads would get in each other's way."""
    if arm.keys.executor.name != "remote":
        return
    keys, learns = arm.keys.wire, "what this learns on the way stays with whoever trains"
    local, threads = arm.keys.local, arm.keys.executor.arguments.address is None
    plain = local.control is None and local.objective is None and local.source.name == "backpropagation"
    faults = {
        ("coding",): arm.keys.coding and "a code's jobs are one gradient each, and looked up here",
        ("local", "growth"): arm.keys.local.growth and learns,
        ("eavesdrop",): arm.keys.eavesdrop and learns,
        ("wire", "clip"): keys and keys.clip and keys.clip.name == "adaptive" and learns,
        ("wire", "up"): keys and keys.up == "scores" and learns,
        ("local",): threads
        and not plain
        and recurrent(model)
        and "for derivatives of recurrent layers torch is switched over, in all threads alike",
    }
    for path, why in faults.items():
        if why:
            said = f"{arm.place(path)}: {'.'.join(path)}"
            raise ScenarioError(f"{said}: no executor elsewhere: {why}; take executor: stacked")
