"""SAR: test-time adaptation from what is reliable, where it is flat, with a way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from fedsim.losses import Entropy
from fedsim.objectives import Step
from fedsim.objectives.term import Found, Term, slopes
from fedsim.optimizers.retake import Retake
from fedsim.sources.sharpness import higher

NotNegative = Annotated[float, Field(ge=0)]
FORGETS = 0.1
"""The share of the last entropy in the moving average."""


@dataclass(frozen=True)
class Sar:
    """The gradient at x + radius g / |g| of the entropy of those examples that are sure enough, here and there.

    SAR (Niu et al., Towards Stable Test-Time Adaptation in Dynamic Wild World, ICLR 2023), Algorithm 1, for objective
    `tent`; other losses get their gradient as ever, priced alike. Bounds are shares of ln C: examples count below
    `reliable` of it, in both passes. Where none is left the step is not taken, by momentum neither. When the moving
    average of their entropy in the second pass falls under `reset`, the client's model is what it was when it first
    adapted, and its optimizer forgets. The paper's 0.2 is 0.029 ln C with its 1000 classes; with ten, surer batches are
    usual, and so here it is a share. Of a network's last layers, which the authors' code leaves alone, nothing is said.
    """

    classes: int
    """Given by the run."""
    reliable: NotNegative = 0.4
    radius: NotNegative = 0.05
    reset: NotNegative = 0.029
    remembers: ClassVar[bool] = True

    def effort(self, terms: int) -> float:
        """See `Source`."""
        return 2.0

    def gradients(self, step: Step, terms: Sequence[Term]) -> Found:
        """See `Source`."""
        if not adapts(terms):
            return slopes(step.source, step.params, terms)
        bound = self.reliable * log(self.classes)
        [term] = [replace(term, loss=Entropy(bound)) for term in terms]
        here, entropies = term.slopes(step.source, step.params)
        kept = entropies < bound
        there = higher(step.params, here, self.radius)
        grads, again = replace(term, y=kept.to(term.y.dtype)).slopes(step.source, there)
        kept &= again < bound
        for memory, sure, found in zip(step.memory, kept, again, strict=True):
            memory["sure"], memory["entropy"] = sure.sum(), found[sure].sum() / sure.sum().clamp_min(1)
        return grads, entropies

    def after(self, step: Step, terms: Sequence[Term], retake: Retake) -> None:
        """See `Retaking`."""
        for client, memory in enumerate(step.memory if adapts(terms) else ()):
            if not memory["sure"]:
                retake.undo(client)
                continue
            usual = memory.get("average", memory["entropy"])
            memory["average"] = (1 - FORGETS) * usual + FORGETS * memory["entropy"]
            first = {
                name: memory.setdefault(f"first {name}", retake.before(client, name).clone()) for name in step.personal
            }
            if memory["average"] < self.reset * log(self.classes):
                retake.restart(client, first)
                del memory["average"]
                memory["resets"] = memory.get("resets", torch.tensor(0)) + 1


def adapts(terms: Sequence[Term]) -> bool:
    """Whether these are of a client that knows no labels."""
    return isinstance(terms[0].loss, Entropy)
