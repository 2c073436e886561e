"""Whether a local step fits the data, the model and itself: what does not is refused before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fedsim.data import Dataset
from fedsim.errors import ScenarioError
from fedsim.models.normalisation import norms
from fedsim.objectives import FedRBN
from fedsim.optimizers.trial import check_optimizer
from fedsim.personal import personal_names
from fedsim.sources import Backpropagation
from fedsim.steps.rule import Learning
from fedsim.vector import Layout

if TYPE_CHECKING:
    from fedsim.scenario import Arm


def refuse_unfit(arm: Arm, local: Any, dataset: Dataset, model: nn.Module) -> None:
    """ScenarioError where something of a local step does not fit."""
    refuse_further(arm, local, dataset, model)
    refuse_objective(arm, local, dataset, model)
    refuse_rules(arm, local, dataset)
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


def refuse_objective(arm: Arm, local: Any, dataset: Dataset, model: nn.Module) -> None:
    """ScenarioError where what clients are to minimise is not for these data, or gives away what noise should hide."""
    objective = local.objective
    if objective is None:
        return
    place, name = arm.place(("local", "objective")), arm.keys.local.objective.name
    if objective.classes and not dataset.has_classes:
        raise ScenarioError(f"{place}: local.objective: {name} is for classes, which these data do not have")
    if isinstance(objective, FedRBN) and not norms(model):
        raise ScenarioError(f"{place}: local.objective: {name} is for models with BatchNorm, such as resnet")
    if isinstance(objective, FedRBN) and local.control is not None:
        raise ScenarioError(
            f"{place}: local.objective: {name} has two batches a step, which a control would take for one"
        )
    if objective.losses > 1 and local.private is not None:
        raise ScenarioError(f"{place}: local.objective: {name} adds up {objective.losses} losses, each of which "
                            "local.private would clip by itself")  # fmt: skip
    if objective.discloses and local.private is not None:
        raise ScenarioError(f"{place}: local.objective: with {name} every gradient of a client depends on "
                            f"{objective.discloses}, which local.private gives no noise")  # fmt: skip


def personal(arm: Arm, local: Any, model: nn.Module) -> tuple[str, ...]:
    """The parameters that stay with clients, by name. ScenarioError if there are no such, or no others."""
    try:
        return personal_names(model, local.personal)
    except ValueError as error:
        raise ScenarioError(f"{arm.place(('local', 'personal'))}: local.personal: {error}") from None


def refuse_rules(arm: Arm, local: Any, dataset: Dataset) -> None:
    """ScenarioError where steps are to be as long as scores of classes allow, and there are no classes."""
    for key in ("schedule", "control"):
        if getattr(getattr(local, key), "classes", False) and not dataset.has_classes:
            raise ScenarioError(f"{arm.place(('local', key))}: local.{key}: {getattr(arm.keys.local, key).name} is for "
                                "classes, which these data do not have")  # fmt: skip


def refuse_growth(arm: Arm, local: Any, model: nn.Module) -> None:
    """ScenarioError where batches are to grow by gradients of single examples, which steps are not made of."""
    if local.growth is None:
        return
    losses = 1 if local.objective is None else local.objective.losses
    faults = {
        "a model with BatchNorm has no gradients of one example at a time, which it tests": bool(norms(model)),
        "it tests the gradients of the loss itself: take source: backpropagation":
            type(local.source) is not Backpropagation,
        f"it tests the gradients of one loss, and the objective adds up {losses}": losses > 1,
        "a schedule that is learnt step by step has no steps to rely on": isinstance(local.schedule, Learning),
    }  # fmt: skip
    for why in [why for why, fault in faults.items() if fault]:
        raise ScenarioError(f"{arm.place(('local', 'growth'))}: local.growth: {arm.keys.local.growth.name}: {why}")


def refuse_unprotected(arm: Arm, local: Any, model: nn.Module) -> None:
    """ScenarioError where clipped gradients get noise, but steps depend on the examples in other ways too."""
    if local.private is None:
        return
    ways = {"source": type(local.source) is not Backpropagation, "control": local.control is not None,
            "growth": local.growth is not None}  # fmt: skip
    for key in [key for key, said in ways.items() if said]:
        raise ScenarioError(f"{arm.place(('local', key))}: local.{key}: with it steps depend on examples in a way that "
                            "local.private gives no noise")  # fmt: skip
    if norms(model):
        raise ScenarioError(f"{arm.place(('local', 'private'))}: local.private: its gradients are of one example at a "
                            "time, which a model with BatchNorm cannot learn from")  # fmt: skip


def refuse_optimizer(arm: Arm, local: Any, layout: Layout) -> None:
    """ScenarioError where clients are to be trained by what takes no steps, or treats a stack as one model."""
    stackable = getattr(local.optimizer, "stackable", True) and arm.keys.coding is None
    try:
        check_optimizer(local.optimizer, layout, stackable)
    except ValueError as error:
        name = arm.keys.local.optimizer.name
        raise ScenarioError(f"{arm.place(('local', 'optimizer'))}: local.optimizer: {name}: {error}") from None
