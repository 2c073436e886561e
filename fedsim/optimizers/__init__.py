"""How a gradient moves the parameters: torch's own optimizers, on parameters (K, *shape) of K clients at once.

A rule that works element by element does to a stack what it does to each client alone. A rule that does not sets
`stackable = False` on its class; its clients are then trained one at a time, on parameters without the axis K. One that
has to know whose its parameters are is `Addressed`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from fedsim.optimizers.adagrad_norm import AdagradNorm
from fedsim.optimizers.classp import Classp
from fedsim.optimizers.frugal import Frugal
from fedsim.optimizers.recipe import Decay, NotNegative, Positive, Recipe, adopted, recipes


def sgd(lr: Positive, momentum: Decay = 0.0, weight_decay: NotNegative = 0.0, nesterov: bool = False) -> Recipe:
    """Stochastic gradient descent, with momentum (Polyak, 1964) or Nesterov's."""
    if nesterov and not momentum:
        raise ValueError("nesterov needs momentum above 0")
    arguments = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    return Recipe(torch.optim.SGD, arguments)


def adam(
    lr: Positive = 1e-3,
    betas: tuple[Decay, Decay] = (0.9, 0.999),
    eps: Positive = 1e-8,
    weight_decay: NotNegative = 0.0,
) -> Recipe:
    """Adam (Kingma & Ba, 2015)."""
    return Recipe(torch.optim.Adam, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})


def adamw(
    lr: Positive = 1e-3,
    betas: tuple[Decay, Decay] = (0.9, 0.999),
    eps: Positive = 1e-8,
    weight_decay: NotNegative = 1e-2,
) -> Recipe:
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""
    return Recipe(torch.optim.AdamW, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})


def adagrad(lr: Positive = 1e-2, weight_decay: NotNegative = 0.0, eps: Positive = 1e-10) -> Recipe:
    """Adagrad (Duchi et al., 2011)."""
    return Recipe(torch.optim.Adagrad, {"lr": lr, "weight_decay": weight_decay, "eps": eps})


def rmsprop(
    lr: Positive = 1e-2,
    alpha: Decay = 0.99,
    eps: Positive = 1e-8,
    weight_decay: NotNegative = 0.0,
    momentum: Decay = 0.0,
) -> Recipe:
    """RMSProp (Tieleman & Hinton, 2012): `alpha` is the decay of the mean square."""
    arguments = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
    return Recipe(torch.optim.RMSprop, arguments)


OPTIMIZERS: dict[str, Callable[..., Recipe]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "adagrad": adagrad,
    "rmsprop": rmsprop,
    "nadam": recipes(torch.optim.NAdam),
    "radam": recipes(torch.optim.RAdam),
    "adamax": recipes(torch.optim.Adamax),
    "adadelta": recipes(torch.optim.Adadelta),
    "asgd": recipes(torch.optim.ASGD),
    "rprop": recipes(torch.optim.Rprop),
    "frugal": recipes(Frugal),
    "classp": recipes(Classp),
    "adagrad_norm": recipes(AdagradNorm),
}

__all__ = ["OPTIMIZERS", "AdagradNorm", "Classp", "Frugal", "Recipe", "adopted"]
