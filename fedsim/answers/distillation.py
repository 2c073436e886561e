"""Clients answer with a few images that stand for their examples, and with what their model says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.answers.crops import Crops
from fedsim.answers.recovery import Recovery
from fedsim.answers.teacher import Teacher
from fedsim.training import Trainer
from fedsim.wire.codec import FLOAT, generator
from fedsim.work import LocalResult, LocalTask

if TYPE_CHECKING:
    from fedsim.workload import Workload


@dataclass(frozen=True)
class Distillation:
    """After its local steps a client makes `images` from noise, dealt out evenly among the classes that it holds.

    With them go up soft labels: the chances that its model gives to each of `views` crops of each image, of at least
    `smallest` of it. Where these crops lie both sides draw from the seed. Not private: images may show examples.
    """

    trainer: Trainer
    model: nn.Module
    recovery: Recovery
    images: int
    views: int
    smallest: float
    classes: int
    trains: ClassVar[bool] = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image."""
        return tuple(self.trainer.x.shape[1:])

    @property
    def crops(self) -> Crops:
        """Of an image."""
        return Crops(self.shape[1], self.shape[2], self.recovery.flip)

    @property
    def sizes(self) -> list[int]:
        """Numbers in a message: of images, and of labels."""
        return [self.images * prod(self.shape), self.images * self.views * self.classes]

    def work(self, work: Workload) -> Workload:
        """Beside the local steps; forward is a third of a gradient, and back to the image another."""
        made = self.images * (self.recovery.steps * 2 + self.views)
        seen = [work.seen[client] + ceil((held + made) / 3) for client, held in enumerate(self.trainer.parts.sizes)]
        return replace(work, seen=seen, up=FLOAT * sum(self.sizes))

    def __call__(self, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """Of the same trainings, with what is distilled from each in place of the change."""
        results = self.trainer(tasks)
        return [
            replace(result, delta=self.distilled(task, task.params + result.delta))
            for task, result in zip(tasks, results, strict=True)
        ]

    def distilled(self, task: LocalTask, params: Tensor) -> Tensor:
        """Images and labels, flat, by a client's model (P,)."""
        held = self.trainer.parts.held(task.client, task.ordinal)
        teacher = Teacher.of(self.model, self.trainer.layout.unflatten(params), self.trainer.x[held])
        own = self.trainer.parts.labels
        present = np.unique(self.trainer.y[held].cpu().numpy() if own is None else own[task.client])
        draw = generator(self.trainer.seed, "distilled images", task.client, task.ordinal)
        classes = torch.from_numpy(np.resize(present, self.images)).to(params.device)
        images = self.recovery.run(teacher, classes, self.shape, draw)
        with torch.no_grad():
            labels = teacher.scores(self.seen(images, task.client, task.version)).softmax(1)
        return torch.cat((images.flatten(), labels.flatten()))

    def seen(self, images: Tensor, client: int, version: int) -> Tensor:
        """The crops that soft labels are of, (images x views, *shape)."""
        draw = generator(self.trainer.seed, "labelled crops", client, version)
        boxes = self.crops.drawn(len(images) * self.views, self.smallest, draw)
        return self.crops.cut(images.repeat_interleave(self.views, 0), boxes)

    def lesson(self, message: Tensor, client: int, version: int) -> tuple[Tensor, Tensor]:
        """What a message teaches: crops (images x views, *shape) and chances (images x views, classes)."""
        images, labels = message.split(self.sizes)
        return self.seen(images.view(-1, *self.shape), client, version), labels.view(-1, self.classes)
