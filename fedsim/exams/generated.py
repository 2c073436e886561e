"""Digits that a generator makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.data import Dataset
from fedsim.data.generative import PIXELS
from fedsim.exams.likeness import frechet
from fedsim.models.gan import Gan
from fedsim.wire.codec import generator


@dataclass(frozen=True, kw_only=True)
class Generated:
    """`frechet`, the distance in pixels of a generator's samples from the test digits, and `spread`, the mean of their
    pixels' standard deviations over that of the digits: it is 0 where all samples are one."""

    samples: Annotated[int, Field(ge=2)] = 1000
    seed: int

    def refuse(self, model: nn.Module, dataset: Dataset) -> None:
        """See `Exam`."""
        if not isinstance(model, Gan):
            raise ValueError("generated digits are of a gan")

    def grade(self, model: nn.Module, named: Mapping[str, Tensor], dataset: Dataset) -> dict[str, float]:
        """See `Exam`."""
        latent = dataset.shape[0] - PIXELS
        drawn = torch.randn(self.samples, latent, generator=generator(self.seed, "generated"))
        own = {name.removeprefix("generator."): part for name, part in named.items() if name.startswith("generator.")}
        pictures = (
            functional_call(model.get_submodule("generator"), own, (drawn.to(dataset.x.device),)).double().cpu().numpy()
        )
        digits = dataset.x_test[:, :PIXELS].double().cpu().numpy()
        spread = np.std(pictures, axis=0).mean() / np.std(digits, axis=0).mean()
        return {"frechet": frechet(pictures, digits), "spread": float(spread)}
