"""Whether a local step fits the data, the model and itself: what does not is refused before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fedsim.data import Dataset
from fedsim.errors import ScenarioError
from fedsim.models.normalisation import norms
from fedsim.objectives import FedRBN, Tent
from fedsim.optimizers import Recipe
from fedsim.optimizers.trial import check_optimizer
from fedsim.personal import personal_names
from fedsim.probes import Cleaning, Continual
from fedsim.sources import Backpropagation, BoRep, Sar
from fedsim.vector import Layout

if TYPE_CHECKING:
    from fedsim.scenario import Arm


def refuse_unfit(arm: Arm, local: Any, dataset: Dataset, model: nn.Module) -> None:
    """ScenarioError where something of a local step does not fit."""
    refuse_objective(arm, local, dataset, model)
    refuse_source(arm, local)
    refuse_rules(arm, local, dataset)
    refuse_probe(arm, local, model)
    refuse_unprotected(arm, local, model)
    refuse_optimizer(arm, local, Layout.of(model))


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
    if isinstance(objective, Tent):
        refuse_adaptation(arm, local)
    if objective.discloses and local.private is not None:
        raise ScenarioError(f"{place}: local.objective: with {name} every gradient of a client depends on "
                            f"{objective.discloses}, which local.private gives no noise")  # fmt: skip


def refuse_adaptation(arm: Arm, local: Any) -> None:
    """ScenarioError where more than what is each client's own would move."""
    faults = {
        "personal": ("tent adapts what stays with clients: say norms", local.personal is not None),
        "optimizer_state": ("tent needs a fresh optimizer, as one that remembers would move what is not adapted",
                            local.optimizer_state == "fresh"),
        "optimizer": ("tent leaves alone what is not adapted: take sgd without decay", undecayed(local.optimizer)),
    }  # fmt: skip
    for key, (why, fine) in faults.items():
        if not fine:
            raise ScenarioError(f"{arm.place(('local', key))}: local.{key}: {why}")


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


def refuse_source(arm: Arm, local: Any) -> None:
    """ScenarioError where a source is not for what clients minimise."""
    if isinstance(local.source, Sar) and not isinstance(local.objective, Tent):
        raise ScenarioError(f"{arm.place(('local', 'source'))}: local.source: sar adapts without labels: it is for "
                            "objective tent")  # fmt: skip
    if isinstance(local.source, BoRep):
        refuse_cleaning(arm, local)


def refuse_cleaning(arm: Arm, local: Any) -> None:
    """ScenarioError where models would move between their periods, or minimise something else."""
    still = undecayed(local.optimizer) and not local.optimizer.arguments.get("momentum")
    faults = {
        "optimizer": ("borep's models stand still between periods: take sgd without momentum and decay", still),
        "objective": ("borep weights the loss of the examples as they are", local.objective is None),
    }
    for key, (why, fine) in faults.items():
        if not fine:
            raise ScenarioError(f"{arm.place(('local', key))}: local.{key}: {why}")


def refuse_rules(arm: Arm, local: Any, dataset: Dataset) -> None:
    """ScenarioError where steps are to be as long as scores of classes allow, and there are no classes."""
    for key in ("schedule", "control"):
        if getattr(getattr(local, key), "classes", False) and not dataset.has_classes:
            raise ScenarioError(f"{arm.place(('local', key))}: local.{key}: {getattr(arm.keys.local, key).name} is for "
                                "classes, which these data do not have")  # fmt: skip


def refuse_probe(arm: Arm, local: Any, model: nn.Module) -> None:
    """ScenarioError where a probe cannot look at these data, or at this model."""
    if local.probe is None:
        return
    faults = [local.probe.lacks] if local.probe.lacks else []
    if isinstance(local.probe, Continual) and norms(model):
        faults.append("judges models without BatchNorm, which takes its statistics of whatever batch it is judged on")
    if isinstance(local.probe, Cleaning) and not isinstance(local.source, BoRep):
        faults.append("looks at the weights of source borep")
    for why in faults:
        raise ScenarioError(f"{arm.place(('local', 'probe'))}: local.probe: {arm.keys.local.probe.name} {why}")


def refuse_unprotected(arm: Arm, local: Any, model: nn.Module) -> None:
    """ScenarioError where clipped gradients get noise, but steps depend on the examples in other ways too."""
    if local.private is None:
        return
    ways = {"source": type(local.source) is not Backpropagation, "control": local.control is not None}
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
