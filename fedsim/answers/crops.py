"""Random resized crops, and how small they may be as time goes on."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

LEAST_PIXELS = 2
"""A crop's sides are no shorter."""
RATIOS = 3 / 4, 4 / 3
"""Of its width to its height, as in torchvision's RandomResizedCrop."""

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class Curriculum:
    """The smallest share of an image that a crop may have, from 1 to `smallest`, where it is at `milestone`.

    CDA (Yin and Shen, TMLR, 2311.18838); `constant` is SRe2L. `step` is 1 up to the milestone, `reverse` is `cosine`
    backwards, `none` is always 1.
    """

    kind: Literal["cosine", "linear", "step", "constant", "reverse", "none"] = "cosine"
    milestone: Annotated[float, Field(ge=0, le=1)] = 1.0
    """A part of all steps; at 0 every kind but `none` is `constant`."""
    smallest: Share = 0.08

    def least(self, time: float) -> float:
        """At a part of all steps.

        >>> [round(Curriculum().least(time), 2) for time in (0, 0.5, 1)]
        [1.0, 0.54, 0.08]
        """
        if self.kind == "none":
            return 1.0
        moment = 1 - time if self.kind == "reverse" else time
        if self.kind == "constant" or moment >= self.milestone:
            return self.smallest
        passed = moment / self.milestone
        left = {"step": 1.0, "linear": 1 - passed}.get(self.kind, (1 + cos(pi * passed)) / 2)
        return self.smallest + (1 - self.smallest) * left


@dataclass(frozen=True)
class Crops:
    """Boxes that are cut out of images and stretched to their size, mirrored half the time if they `flip`."""

    height: int
    width: int
    flip: bool

    def drawn(self, count: int, least: float, draw: Generator) -> Tensor:
        """So many boxes of at least such a share of an image, as affine maps (count, 2, 3).

        Where a box would not fit a square one is taken; torchvision draws again, and then takes the whole image.
        """
        area, ratio, left, top, mirror = torch.rand(5, count, generator=draw)
        area = least + (1 - least) * area
        ratio = RATIOS[0] * (RATIOS[1] / RATIOS[0]) ** ratio
        ratio = torch.where(area * torch.maximum(ratio, 1 / ratio) > 1, 1.0, ratio)
        wide = (area * ratio).sqrt().clamp_min(min(1.0, LEAST_PIXELS / self.width))
        high = (area / ratio).sqrt().clamp_min(min(1.0, LEAST_PIXELS / self.height))
        boxes = torch.zeros(count, 2, 3)
        boxes[:, 0, 0] = torch.where((mirror < 0.5) & torch.tensor(self.flip), -wide, wide)
        boxes[:, 1, 1] = high
        boxes[:, 0, 2], boxes[:, 1, 2] = (1 - wide) * (2 * left - 1), (1 - high) * (2 * top - 1)
        return boxes

    def cut(self, images: Tensor, boxes: Tensor) -> Tensor:
        """One box of each image (B, channels, height, width), bilinear; the same shape."""
        grid = functional.affine_grid(boxes.to(images.device), list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
