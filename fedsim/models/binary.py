"""Networks whose weights and activations are signs, and the estimate of the sign's derivative that trains them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedsim.models.normalisation import BatchNorm

Exponent = Annotated[float, Field(ge=1, allow_inf_nan=False)]

NEAR = 0.1
"""m: below it the power's slope, which grows without bound, is replaced by that of the secant from 0 to m."""

FAR = 1.5
"""t: beyond it there is no slope."""


@dataclass(frozen=True)
class Rising:
    """An o that grows with the server's version: first + (1 - cos(pi / 2 version / versions)) (last - first).

    As in ReSTE's code, where it goes by epochs and begins with 1.
    """

    first: Exponent = 1.0
    last: Exponent = 3.0

    def at(self, done: float) -> float:
        """When so much of the run is done.

        >>> Rising().at(0.0), round(Rising().at(0.5), 3), Rising().at(1.0)
        (1.0, 1.586, 3.0)
        """
        return self.first + (1 - math.cos(math.pi / 2 * min(1.0, done))) * (self.last - self.first)


def power(z: Tensor, o: float) -> Tensor:
    """f(z): sign(z) |z|^(1/o) with a secant near 0, and constant beyond `FAR`; the larger `o`, the nearer to the sign.

    The function whose derivative `Sign` has: Wu et al., Estimator Meets Equilibrium Perspective: A Rectified Straight
    Through Estimator for Binary Neural Networks Training (ICCV 2023), as in the authors' code (DravenALG/ReSTE).
    """
    size = z.abs().clamp_max(FAR)
    secant = NEAR ** (1 / o) / NEAR * size
    return z.sign() * torch.where(size <= NEAR, secant, size.clamp_min(NEAR) ** (1 / o))


def slope(z: Tensor, o: float) -> Tensor:
    """f'(z), like `z`; with o = 1 it is the straight-through estimator's, 1 up to `FAR`."""
    size = z.abs()
    inner = size.clamp_min(NEAR) ** (1 / o - 1) / o
    steep = torch.where(size <= NEAR, NEAR ** (1 / o) / NEAR, inner)
    return torch.where(size <= FAR, steep, 0.0)


class Sign(torch.autograd.Function):
    """1 where z >= 0, else -1; its derivative, backward and along a direction, is `slope`.

    So all sources of gradients agree, and a curvature is that of `power` at a network of signs: no derivative of what
    the network computes, which has none.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, o: float) -> Tensor:
        """Signs, like `z`."""
        return torch.where(z >= 0, 1.0, -1.0).to(z.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        """Keep z for either direction."""
        z, ctx.o = inputs
        ctx.save_for_backward(z)
        ctx.save_for_forward(z)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None]:
        """Of z; `o` has none."""
        [z], [change] = ctx.saved_tensors, above
        return change * slope(z, ctx.o), None

    @staticmethod
    def jvp(ctx: Any, *along: Tensor) -> Tensor:
        """How signs change along a direction, by the estimate."""
        [z] = ctx.saved_tensors
        return along[0] * slope(z, ctx.o)


def sign(z: Tensor, o: float) -> Tensor:
    """`Sign` of a tensor."""
    signs = Sign.apply(z, o)
    assert isinstance(signs, Tensor)
    return signs


class BinaryLinear(nn.Module):
    """Signs of inputs by signs of weights, times the weights' mean size: (B, wide) -> (B, narrow).

    One scale for the layer, through which gradients flow too, as in ReSTE's code. A norm should follow.
    """

    def __init__(self, wide: int, narrow: int, o: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(wide, narrow, bias=False).weight.detach())
        self.o = o
        """What it is now."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores of signs."""
        return functional.linear(sign(x, self.o), sign(self.weight, self.o) * self.weight.abs().mean())


def binary_mlp(
    shape: tuple[int, ...],
    classes: int,
    hidden: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2)],
    o: Exponent | Rising = 3.0,
    norm: Literal["batch", "layer"] = "batch",
    versions: int | None = None,
) -> nn.Module:
    """A multi-layer perceptron whose layers between hidden units are binary; the first and the last are real.

    ReSTE's estimate of the sign's derivative, with a fixed `o`, or one that grows while a run goes on, in the paper
    from 1 to 3: every training has that of the version it starts from. Each layer but the last is followed by a norm:
    BatchNorm, or LayerNorm, which needs no batch. `versions` is given by the run; ValueError if an o that grows has
    none.
    """
    if isinstance(o, Rising) and versions is None:
        raise ValueError("an o that grows over the run needs until.versions")
    begin = o.first if isinstance(o, Rising) else o
    normal = BatchNorm if norm == "batch" else nn.LayerNorm
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(math.prod(shape), hidden[0], bias=False), normal(hidden[0])]
    for wide, narrow in pairwise(hidden):
        layers += [BinaryLinear(wide, narrow, begin), normal(narrow)]
    layers += [nn.ReLU(), nn.Linear(hidden[-1], classes)]
    return Maturing(layers, o, versions) if isinstance(o, Rising) and versions else nn.Sequential(*layers)


class Maturing(nn.Sequential):
    """A network whose binary layers' o depends on the version."""

    def __init__(self, layers: Iterable[nn.Module], o: Rising, versions: int) -> None:
        super().__init__(*layers)
        self.o, self.versions = o, versions

    def at(self, version: int) -> nn.Module:
        """A copy, as it is at a version."""
        model = copy.deepcopy(self)
        for layer in model.modules():
            if isinstance(layer, BinaryLinear):
                layer.o = self.o.at(version / self.versions)
        return model


def at(model: nn.Module, version: int) -> nn.Module:
    """A model as it is at a version; itself, unless it is one that grows."""
    return model.at(version) if isinstance(model, Maturing) else model


def estimating_error(weights: Iterable[Tensor], o: float) -> float:
    """ReSTE's first indicator: sum over layers of |f(W) - sign(W)|_2, how far the estimate is from the sign."""
    return sum(float(torch.linalg.vector_norm(power(each, o) - sign(each, o))) for each in weights)


def gradient_variance(gradients: Iterable[Tensor]) -> float:
    """ReSTE's second indicator: sum over layers of the variance of |gradient| over a layer's weights."""
    return sum(float(each.abs().var(correction=0)) for each in gradients)


def binary_weights(model: nn.Module) -> dict[str, float]:
    """The names of a model's binary weights, in order, and the `o` of each."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, BinaryLinear)]
    return {f"{name}.weight": layer.o for name, layer in layers}
