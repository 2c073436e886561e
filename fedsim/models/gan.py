"""A generator and its discriminator in one model: two players, each with parameters of its own."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.data.generative import PIXELS
from fedsim.models.dense import mlp

Width = Annotated[int, Field(ge=1)]


class Gan(nn.Module):
    """What the discriminator says of a picture, and of the one that the generator makes of the numbers beside it."""

    def __init__(self, latent: int, hidden: list[int]) -> None:
        super().__init__()
        self.generator = nn.Sequential(mlp((latent,), PIXELS, hidden), nn.Tanh())
        self.discriminator = mlp((PIXELS,), 1, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, 2), of examples (B, 64 + latent): the picture's, and the generated one's."""
        made = self.generator(x[:, PIXELS:])
        return torch.cat((self.discriminator(x[:, :PIXELS]), self.discriminator(made)), 1)


def gan(shape: tuple[int, ...], classes: int, hidden: list[Width]) -> nn.Module:
    """For data of `seeded_digits`: perceptrons with ReLU, a generator whose pixels end in tanh, and a discriminator.

    ValueError for other data.
    """
    if len(shape) != 1 or shape[0] <= PIXELS or classes != 2:
        raise ValueError("gan is for seeded_digits: pictures with numbers beside them")
    return Gan(shape[0] - PIXELS, hidden)
