"""Digits that a denoiser makes under guidance, and what becomes of them where it is strong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from fedsim.data import Dataset
from fedsim.data.generative import CLASSES, PIXELS
from fedsim.exams.guidance import Guidance
from fedsim.exams.likeness import frechet, nearest_classes
from fedsim.wire.codec import generator

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
BRIGHT = 1.05
"""Pixels of digits lie in [-1, 1]."""
KNOWN = 1000
"""Training digits to compare with, no more than there are of one draw."""


@dataclass(frozen=True, kw_only=True)
class Guided:
    """Samples of a denoiser for data of `noisy_digits`, at each of some scales, under three rules.

    `cfg` is classifier-free guidance, `apg` adaptive projected guidance with these arguments, `projected` its
    projection alone. For each rule and scale, from the same noise: `frechet_apg_4`, the distance of the samples from
    the training digits; `saturation_apg_4`, the share of pixels beyond 1.05; `agreement_apg_4`, the share of samples
    whose class, by the nearest training digits, is the one that was asked for.
    """

    scales: tuple[Annotated[float, Field(ge=1, allow_inf_nan=False)], ...] = (2.0, 4.0, 8.0)
    radius: NotNegative = 2.5
    momentum: Annotated[float, Field(gt=-1, lt=1)] = -0.75
    eta: NotNegative = 0.0
    samples: Count = 500
    steps: Count = 24
    """Of Euler's method, from noise to picture."""
    seed: int

    def refuse(self, model: nn.Module, dataset: Dataset) -> None:
        """See `Exam`."""
        if dataset.shape != (PIXELS + 1 + CLASSES,) or dataset.outputs != PIXELS:
            raise ValueError("guided samples are of denoisers, of noisy_digits")

    def grade(self, model: nn.Module, named: Mapping[str, Tensor], dataset: Dataset) -> dict[str, float]:
        """See `Exam`."""
        said = torch.nonzero(dataset.x[:, -CLASSES:].sum(1)).squeeze(1)[:KNOWN]
        known, classes = dataset.y[said].double().cpu().numpy(), dataset.x[said, -CLASSES:].argmax(1).cpu().numpy()
        wanted = torch.arange(self.samples, device=dataset.x.device) % CLASSES
        found: dict[str, float] = {}
        for scale in self.scales:
            for name, rule in self.rules(scale).items():
                pictures = self.sampled(model, named, rule, wanted).double().cpu().numpy()
                agreeing = nearest_classes(pictures, known, classes)
                found[f"frechet_{name}_{scale:g}"] = frechet(pictures, known)
                found[f"saturation_{name}_{scale:g}"] = float((np.abs(pictures) > BRIGHT).mean())
                found[f"agreement_{name}_{scale:g}"] = float((agreeing == wanted.cpu().numpy()).mean())
        return found

    def rules(self, scale: float) -> dict[str, Guidance]:
        """By name."""
        return {
            "cfg": Guidance(scale),
            "apg": Guidance(scale, self.radius, self.momentum, self.eta),
            "projected": Guidance(scale, eta=self.eta),
        }

    def sampled(self, model: nn.Module, named: Mapping[str, Tensor], rule: Guidance, wanted: Tensor) -> Tensor:
        """Pictures (samples, 64) of these classes: x_t moves to x_(t - h) = x_t - h (x_t - D) / t."""
        x = torch.randn(len(wanted), PIXELS, generator=generator(self.seed, "guided")).to(wanted.device)
        codes, last = functional.one_hot(wanted, CLASSES).to(x), None
        for step in range(self.steps):
            level = 1 - step / self.steps
            levels = x.new_full((len(x), 1), level)
            each = [torch.cat((x, levels, code), 1) for code in (codes, torch.zeros_like(codes))]
            with_class, without = functional_call(model, dict(named), (torch.cat(each),)).chunk(2)
            picture, last = rule.combine(with_class, without, last)
            x = x - (x - picture) / (level * self.steps)
        return x
