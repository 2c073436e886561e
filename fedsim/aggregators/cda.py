"""CDA as federated learning: clients send images that they have distilled, and the server learns from these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.aggregators.aggregator import Count
from fedsim.aggregators.rounds import Rounds
from fedsim.answers.crops import Share
from fedsim.answers.distillation import Distillation
from fedsim.answers.recovery import Recovery
from fedsim.data.partitions import Parts
from fedsim.losses import SoftCrossEntropy
from fedsim.models.normalisation import norms
from fedsim.objectives import Plain, Step, Term
from fedsim.rng import stream
from fedsim.training import Trainer
from fedsim.work import LocalTask, Update


class ByChances(Plain):
    """Learns from chances of classes in place of labels."""

    def terms(self, step: Step) -> Sequence[Term]:
        """See `Objective`."""
        return (Term("loss", step.x, step.y, SoftCrossEntropy()),)


@dataclass
class CDA(Rounds):
    """Each client distils its model into images by curriculum data synthesis; the server trains on all of a round's.

    Yin and Shen, Dataset Distillation via Curriculum Data Synthesis in Large Data Era (TMLR, 2311.18838): squeeze,
    recover, relabel. One round is one-shot federated learning; of several, each begins with what the server has learnt,
    and it forgets former images. What the server computes takes no virtual time, here as elsewhere: clients' devices
    and links are what is simulated.
    """

    _: KW_ONLY
    trainer: Trainer = field(repr=False)
    """Given by the run, as are the model and how many classes there are."""
    model: nn.Module = field(repr=False)
    classes: int
    seed: int = 0
    ipc: Count = 10
    """Images for each class of the data that a client sends, whichever of these it holds: those show all of them."""
    recover: Recovery = Recovery()
    """How clients make images."""
    views: Count = 8
    """Crops of each image that have soft labels."""
    smallest: Share = 0.08
    """Of an image that such a crop shows."""
    epochs: Count = 50
    """Of the server, over all crops of a round, in the clients' batch size."""
    optimizer: Any = "adam"
    """The server's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        x, y, sizes = self.trainer.x, self.trainer.y, self.trainer.parts.sizes
        pictures = x.dim() == 4 and y.dim() == 1 and 0 <= float(x.min()) <= float(x.max()) <= 1
        faults = {
            "images are matched to statistics of BatchNorm: take a model with norm: batch": norms(self.model),
            "it makes pictures of classes, pixels within [0, 1], which these data are not": pictures,
            "a client without examples has nothing to distil": min(sizes),
        }
        for why in [why for why, fine in faults.items() if not fine]:
            raise ValueError(why)

    @property
    def answers(self) -> Distillation:
        """Images and soft labels."""
        return Distillation(self.trainer, self.model, self.recover, self.ipc * self.classes, self.views, self.smallest,
                            self.classes)  # fmt: skip

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a message."""
        return (sum(self.answers.sizes) if len(self.params) else 0,)

    def direction(self, updates: list[Update]) -> Tensor:
        """To what a student becomes that begins as the present model."""
        if not len(self.params):  # as where nothing is trained
            return self.params
        lessons = [self.answers.lesson(update.delta, update.client, update.version) for update in updates]
        x, y = (torch.cat(parts) for parts in zip(*lessons, strict=True))
        seed = int(stream(self.seed, "student").integers(2**31))
        student = Trainer(self.model, x, y, Parts([np.arange(len(x))]), self.trainer.batch, self.optimizer, seed,
                          objective=ByChances())  # fmt: skip
        steps = self.epochs * -(-len(x) // self.trainer.batch)
        [learnt] = student([LocalTask(0, self.params, self.version, steps)])
        return learnt.delta
