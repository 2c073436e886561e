"""What tests of gradients and objectives share: small networks for a few clients, the same in every run."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fedsim.rng import stream
from fedsim.wire.codec import generator

K, B = 3, 7


def numbers(*shape: int) -> Tensor:
    return torch.from_numpy(stream(4, "adversarial", shape).standard_normal(shape)).float()


def dense(*widths: int) -> nn.Sequential:
    """With weights that are the same in every run."""
    layers: list[nn.Module] = [nn.Flatten()]
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    module, source = nn.Sequential(*layers[:-1]), stream(4, "adversarial", "weights", widths)
    with torch.no_grad():
        for part in module.parameters():
            part.copy_(torch.from_numpy(source.uniform(-1, 1, part.shape) / part.shape[-1] ** 0.5))
    return module


def stacked(module: nn.Module, clients: int = K) -> dict[str, Tensor]:
    """Each client's own parameters."""
    return {name: torch.stack([part.detach() * (1 + k / 3) for k in range(clients)])
            for name, part in module.named_parameters()}  # fmt: skip


def draws(clients: int = K, *name: object) -> list[torch.Generator]:
    return [generator(1, "test", client, *name) for client in range(clients)]
