"""How good predictions are while a client adapts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.data import Dataset
from fedsim.objectives import Step
from fedsim.probes.continual import FORWARD


@dataclass(frozen=True)
class Online:
    """Before each step, of its own batch as the client sees it: accuracy by true labels, entropy, the commonest answer.

    What test-time adaptation is judged by: each batch is predicted, then learnt from. A BatchNorm takes its statistics
    of the batch, as in the step. `commonest` is the share of the answer that is given most often.
    """

    dataset: Dataset

    @property
    def lacks(self) -> str | None:
        """See `Probe`."""
        return None if self.dataset.has_classes else "is for classes, which these data do not have"

    @property
    def columns(self) -> Sequence[str]:
        """See `Probe`."""
        return "accuracy", "entropy", "commonest"

    def effort(self, steps: int, batch: int) -> float:
        """See `Probe`."""
        return FORWARD * steps * batch

    def before(self, step: Step) -> Tensor:
        """See `Probe`."""
        scores = step.source.scores(step.params, step.x)
        answers, (_, truth) = scores.argmax(2), step.look_up(step.rows)
        log_chance = scores.log_softmax(2)
        commonest = torch.nn.functional.one_hot(answers, scores.shape[2]).double().mean(1).amax(1)
        right = (answers == truth).double().mean(1)
        return torch.stack([right, -(log_chance.exp() * log_chance).sum(2).mean(1).double(), commonest], 1)

    def after(self, step: Step) -> None:
        """See `Probe`."""
        return None
