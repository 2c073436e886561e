"""Models of fully connected layers; plain sequences, so that their gradients have a closed form."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.models.normalisation import BatchNorm, GhostNorm

Width = Annotated[int, Field(ge=1)]
Chunk = Annotated[int, Field(ge=2)]


def logistic(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Multinomial logistic regression, or linear regression where labels are points: one linear layer."""
    return mlp(shape, classes, hidden=[])


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU}


def mlp(
    shape: tuple[int, ...],
    classes: int,
    hidden: list[Width],
    activation: Literal["relu", "sigmoid", "tanh", "gelu"] = "relu",
    norm: Literal["none", "batch", "ghost", "layer", "group"] = "none",
    ghost: Chunk = 32,
    groups: Width = 8,
    further: Annotated[int, Field(ge=0)] = 0,
) -> nn.Module:
    """A multi-layer perceptron; `hidden: [200, 200]` with ReLU is the 2NN of McMahan et al., 2017.

    With a `norm` each hidden layer is normalised before its activation and needs no bias: over a batch, or over each
    `ghost` examples of it, whose statistics are estimated anew before each measurement (`normalisation`); or, each
    example by itself, over the `layer` or over `groups` of its units (Ba et al., 2016; Wu & He, 2018). `further`
    scores, beside those of outputs, are for objectives that read them: a trunk with two heads.

    >>> sum(parameter.numel() for parameter in mlp((28, 28), 10, [200, 200]).parameters())
    199210
    """
    norms: dict[str, Callable[[int], nn.Module]] = {
        "batch": BatchNorm,
        "ghost": partial(GhostNorm, ghost=ghost),
        "layer": nn.LayerNorm,
        "group": partial(nn.GroupNorm, groups),
    }
    layers: list[nn.Module] = [nn.Flatten()]
    *inner, last = pairwise([math.prod(shape), *hidden, classes + further])
    for wide, narrow in inner:
        normal = [] if norm == "none" else [norms[norm](narrow)]
        layers += [_linear(wide, narrow, bias=not normal), *normal, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, _linear(*last))


def _linear(wide: int, narrow: int, bias: bool = True) -> nn.Linear:
    """Without inputs it is its bias alone, which starts at 0; torch warns that no weights can be drawn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return nn.Linear(wide, narrow, bias)


class TwoLayerReLU(nn.Module):
    """f(x) = sum_r a_r ReLU(<w_r, x> + b_r), of which only the w_r are trained."""

    signs: Tensor
    biases: Tensor

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, inputs) / math.sqrt(width))
        self.register_buffer("biases", torch.randn(width) / math.sqrt(width))
        self.register_buffer("signs", (torch.randint(2, (width,)) * 2 - 1) * width ** (-1 / 3))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, 1)."""
        return (x.flatten(1) @ self.weight.T + self.biases).relu() @ self.signs.unsqueeze(1)


def two_layer_relu(shape: tuple[int, ...], classes: int, width: Width = 256) -> nn.Module:
    """The over-parameterised network of Li, Song and Yang, Federated Adversarial Learning (ICML 2023).

    Signs a_r of size width ** (-1/3) and biases stay as they are drawn; weights and biases begin as N(0, 1 / width).
    ValueError if labels have more than one coordinate.
    """
    if classes != 1:
        raise ValueError(f"two_layer_relu gives one score, for labels that are points of one coordinate, not {classes}")
    return TwoLayerReLU(math.prod(shape), width)
