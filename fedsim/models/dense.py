"""Models of fully connected layers; plain sequences, so that their gradients have a closed form."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

Width = Annotated[int, Field(ge=1)]


def logistic(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Multinomial logistic regression, or linear regression where labels are points: one linear layer."""
    return mlp(shape, classes, hidden=[])


ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def mlp(
    shape: tuple[int, ...],
    classes: int,
    hidden: list[Width],
    activation: Literal["relu", "sigmoid", "tanh"] = "relu",
) -> nn.Module:
    """A multi-layer perceptron; `hidden: [200, 200]` with ReLU is the 2NN of McMahan et al., 2017.

    >>> sum(parameter.numel() for parameter in mlp((28, 28), 10, [200, 200]).parameters())
    199210
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for wide, narrow in pairwise([math.prod(shape), *hidden, classes]):
        layers += [_linear(wide, narrow), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def _linear(wide: int, narrow: int) -> nn.Linear:
    """Without inputs it is its bias alone, which starts at 0; torch warns that no weights can be drawn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        return nn.Linear(wide, narrow)
