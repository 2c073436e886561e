"""Recipes: how to make a fresh optimizer for each local training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_type_hints

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1)]

WHOLE = ("Adafactor", "Muon")
"""Rules of torch's own that look at whole tensors."""
SWITCHES = {"foreach", "fused", "capturable", "differentiable"}
"""Arguments of torch's own rules that say how they are computed, and not what."""


@dataclass(frozen=True)
class Recipe:
    """A fresh optimizer for each local training: calling it with parameters makes one."""

    kind: Callable[..., Optimizer]
    arguments: Mapping[str, Any]

    @property
    def stackable(self) -> bool:
        """Whether a step on a stack equals a step on each client; a class's `stackable` may ask for its arguments."""
        found: Any = getattr(self.kind, "stackable", getattr(self.kind, "__name__", "") not in WHOLE)
        return bool(found(**self.arguments) if callable(found) else found)

    @property
    def momentum(self) -> float | None:
        """Of plain SGD; None: it is another rule, such as Nesterov's."""
        plain = self.kind is torch.optim.SGD and not self.arguments.get("nesterov")
        return self.arguments.get("momentum", 0.0) if plain else None

    def __call__(self, params: list[Tensor]) -> Optimizer:
        """An optimizer of these parameters, without memory."""
        return self.kind(params, **self.arguments)


def adopted(member: Callable[..., Any]) -> Callable[..., Recipe]:
    """A member of the family `optimizer`: of an optimizer's class what makes its recipes, anything else as it is."""
    return recipes(member) if isinstance(member, type) and issubclass(member, Optimizer) else member


def recipes(kind: type[Optimizer]) -> Callable[..., Recipe]:
    """What takes an optimizer's own arguments, but for the parameters, and makes a recipe of them."""

    def recipe(**arguments: Any) -> Recipe:
        return Recipe(kind, arguments)

    _, *own = inspect.signature(kind).parameters.values()
    dropped = SWITCHES if kind.__module__.startswith("torch.optim") else ()
    hints = get_type_hints(kind.__init__, include_extras=True)
    recipe.__signature__ = inspect.Signature([each for each in own if each.name not in dropped])  # type: ignore[attr-defined]
    recipe.__annotations__ = {each.name: _written(hints.get(each.name, Any)) for each in own}
    recipe.__name__, recipe.__doc__ = kind.__name__, kind.__doc__
    return recipe


def _written(hint: Any) -> Any:
    """What a file can say of an argument: torch takes a rate as a tensor too."""
    kinds = get_args(hint)
    return Union[tuple(kind for kind in kinds if kind is not Tensor)] if Tensor in kinds else hint  # noqa: UP007
