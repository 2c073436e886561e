"""Whether a local step fits the data, the model and itself: what does not is refused before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from fedsim.data import Dataset
from fedsim.errors import ScenarioError
from fedsim.models.normalisation import norms
from fedsim.models.transformer import Transformer
from fedsim.objectives import FedRBN, SparseAttention
from fedsim.optimizers.trial import check_optimizer
from fedsim.personal import personal_names
from fedsim.sources import Backpropagation, Eggroll
from fedsim.vector import Layout

if TYPE_CHECKING:
    from fedsim.scenario import Arm


def refuse_unfit(arm: Arm, local: Any, dataset: Dataset, model: nn.Module) -> None:
    """ScenarioError where something of a local step does not fit."""
    refuse_attention(arm, local, model)
    refuse_objective(arm, local, dataset, model)
    refuse_rules(arm, local, dataset)
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
    if isinstance(objective, FedRBN) and isinstance(local.source, Eggroll):
        raise ScenarioError(f"{place}: local.objective: {name} has two batches a step, whose statistics a population "
                            "would take for one's")  # fmt: skip
    if objective.discloses and local.private is not None:
        raise ScenarioError(f"{place}: local.objective: with {name} every gradient of a client depends on "
                            f"{objective.discloses}, which local.private gives no noise")  # fmt: skip


def refuse_attention(arm: Arm, local: Any, model: nn.Module) -> None:
    """ScenarioError where what transformers have beside scores of classes is asked of others, or taken for scores."""
    exam = arm.keys.evaluate.exam
    asked = {
        ("local", "objective"): isinstance(local.objective, SparseAttention),
        ("evaluate", "exam"): exam is not None and exam.name == "attention",
    }
    if not isinstance(model, Transformer):
        for path in [path for path, wanted in asked.items() if wanted]:
            raise ScenarioError(f"{arm.place(path)}: {'.'.join(path)}: only a transformer has sparse attention")
    elif not asked["local", "objective"]:
        raise ScenarioError(f"{arm.place(('local', 'objective'))}: local.objective: a transformer gives more than "
                            "scores of classes, which sparse_attention alone can learn from")  # fmt: skip
    elif getattr(local.control, "classes", False):
        name = arm.keys.local.control.name
        raise ScenarioError(f"{arm.place(('local', 'control'))}: local.control: {name} takes all that a transformer "
                            "gives for scores of classes")  # fmt: skip


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
