"""Images that a teacher takes for examples, made from noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR

from fedsim.answers.crops import Crops, Curriculum
from fedsim.answers.teacher import Teacher
from fedsim.optimizers.recipe import NotNegative, Positive


@dataclass(frozen=True)
class Recovery:
    """Adam on x from N(0, 1), by CE(f(x'), y) + match (first R_1 + sum of R_l, l > 1), x' a random crop of x, rolled.

    CDA (Yin and Shen, TMLR, 2311.18838), its rate falling by a cosine to 0 and x held within [0, 1] after each step;
    the last x is kept. All of a client's images are one batch, the paper's one of each class. Defaults are those of
    ImageNet-1K.
    """

    steps: Annotated[int, Field(ge=1)] = 4000
    """T."""
    lr: Positive = 0.25
    match: NotNegative = 0.01
    """R_bn: weight of the statistics."""
    first: NotNegative = 10.0
    """Of the first BatchNorm's among them."""
    curriculum: Curriculum = Curriculum()
    """How small crops may be, as time goes on."""
    jitter: Annotated[int, Field(ge=0)] = 32
    """Images are rolled by up to so many pixels, each step all alike."""
    flip: bool = True
    """Whether crops are mirrored half the time."""

    def run(self, teacher: Teacher, y: Tensor, shape: tuple[int, ...], draw: Generator) -> Tensor:
        """An image for each of the classes `y` (B,): (B, *shape)."""
        x, crops = torch.randn(len(y), *shape, generator=draw).to(y.device), Crops(shape[1], shape[2], self.flip)
        adam = torch.optim.Adam([x], lr=self.lr, betas=(0.5, 0.9))
        cosine = CosineAnnealingLR(adam, self.steps)
        for step in range(self.steps):
            boxes = crops.drawn(len(y), self.curriculum.least(step / self.steps), draw)
            roll = torch.randint(self.jitter + 1, (2,), generator=draw).tolist()
            x.requires_grad_()
            [x.grad] = torch.autograd.grad(self.loss(teacher, crops.cut(x, boxes).roll(roll, (2, 3)), y), [x])
            x.requires_grad_(False)
            adam.step()
            cosine.step()
            x.clamp_(0, 1)
        return x

    def loss(self, teacher: Teacher, x: Tensor, y: Tensor) -> Tensor:
        """Of what is cut out of images."""
        scores, (head, *rest) = teacher.judged(x)
        return functional.cross_entropy(scores, y) + self.match * (self.first * head + sum(rest))
