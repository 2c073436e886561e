"""The master's numbers: models trained in turn, each by an optimizer that steps along decoded gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from fedsim.optimizers.step import step as take
from fedsim.vector import Layout, weighted_sum
from fedsim.work import Deferred

Decoded = Iterable[tuple[Deferred, float]]
"""Messages, and their weights in a gradient."""


class Learner:
    """Several models; job t belongs to model t mod their number.

    Args:
        starts: the models, flat (P,).
        layout: where parameters lie in them.
        optimizer: makes an optimizer for each.
    """

    changing: ClassVar[tuple[str, ...]] = ("params", "remembered")

    def __init__(self, starts: Sequence[Tensor], layout: Layout, optimizer: Callable[[list[Tensor]], Optimizer]):
        self.params, self.layout = list(starts), layout
        """Each model as it is now, flat (P,); never written to, only replaced."""
        self.leaves = [{name: view.clone() for name, view in layout.unflatten(start).items()} for start in starts]
        self.optimizers = [optimizer(list(leaves.values())) for leaves in self.leaves]

    @property
    def remembered(self) -> list[Mapping[int, Any]]:
        """What each optimizer does, by the number of the parameter."""
        return [optimizer.state_dict()["state"] for optimizer in self.optimizers]

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Go on from models, and from what optimizers remembered."""
        self.params = state["params"]
        for model, (leaves, optimizer) in enumerate(zip(self.leaves, self.optimizers, strict=True)):
            for name, view in self.layout.unflatten(self.params[model]).items():
                leaves[name].copy_(view)
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state["remembered"][model]})

    def start(self, job: int) -> Tensor:
        """The model that a job's gradient is taken at, (P,)."""
        return self.params[job % len(self.params)]

    def step(self, job: int, decoded: Callable[[], Decoded]) -> None:
        """Read a job's messages, add them up in float64, and step along the gradient."""
        deferred, weights = zip(*decoded(), strict=True)
        messages = [each.result().delta for each in deferred]
        gradient = weighted_sum([message.double() for message in messages], weights)
        model = job % len(self.params)
        leaves = self.leaves[model]
        for name, view in self.layout.unflatten(gradient.to(self.params[model].dtype)).items():
            leaves[name].grad = view
        take(self.optimizers[model])
        self.params[model] = self.layout.join(leaves)


class Idle(Learner):
    """Where nothing is trained: models without parameters, and steps that read nothing."""

    def __init__(self, starts: Sequence[Tensor]):
        self.params = list(starts)

    def step(self, job: int, decoded: Callable[[], Decoded]) -> None:
        """Nothing."""
