"""AltMin: a matrix of low rank completed by alternating least squares, of which clients hold rows."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from math import sqrt
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fedsim.aggregators.rounds import Rounds
from fedsim.answers.normal_equations import NormalEquations
from fedsim.answers.regression import Exact, Sketched
from fedsim.models.low_rank import LowRank
from fedsim.training import Trainer
from fedsim.vector import total
from fedsim.work import Update


@dataclass
class AltMin(Rounds):
    """V <- argmin |P(U V^T - M)| by the sum of the clients' normal equations, then QR; each finds its rows U from V.

    Alternating minimisation of Jain, Netrapalli and Sanghavi (STOC 2013), made robust to regressions solved roughly by
    Gu, Song, Yin and Zhang (2302.11068). Sums do not depend on who holds which rows, so with everybody heard each round
    is one of the central algorithm. As in practice, all entries are used again in each round, which the proof
    does not do. Clients sum up blocks of k^2 numbers whatever finds U, so the paper's O(k) an entry is had of U alone.

    The `spectral` start is a round of its own: the top right singular vectors of what is known by Nystroem's
    approximation of X^T X from X^T X G, which is of the size of any other message, rows clipped to the incoherence
    bound. The paper's is of U, ours of V, as clients hold rows.
    """

    _: KW_ONLY
    trainer: Trainer = field(repr=False)
    """Given by the run, as is the model."""
    model: nn.Module = field(repr=False)
    initial: Literal["spectral", "random"] = "spectral"
    """`random`: from the model's own V."""
    incoherence: Annotated[float, Field(gt=0)] = 2.0
    """Rows of the start are no longer than so many times sqrt(k / n), what they are on average."""
    sketched: Sketched | None = None
    """How clients find their rows; None: exactly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.model, LowRank):
            raise ValueError("altmin solves for the columns of a matrix: take model: low_rank")

    @property
    def answers(self) -> NormalEquations:
        """Of the clients' rows."""
        return NormalEquations(self.trainer, self.sketched or Exact(), self.initial == "spectral")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all sums."""
        return (self.answers.columns * self.answers.width if len(self.params) else 0,)

    def direction(self, updates: list[Update]) -> Tensor:
        """To the next V."""
        if not len(self.params):  # as where nothing is trained
            return self.params
        sums = total([update.delta for update in updates])
        first = self.initial == "spectral" and not self.version
        factor = torch.linalg.qr(self.spectral(sums) if first else self.solved(sums)).Q
        return factor.flatten().to(self.params.dtype) - self.params

    def solved(self, sums: Tensor) -> Tensor:
        """V (n, k), a column's row of it the shortest that fits; 0 for a column of which nothing is known."""
        matrices, right = self.answers.equations(sums)
        return (torch.linalg.pinv(matrices, hermitian=True) @ right.unsqueeze(2)).squeeze(2)

    def spectral(self, sums: Tensor) -> Tensor:
        """Singular vectors (n, k), clipped: with B = X^T X, B G (G^T B G)^+ (B G)^T stands for B."""
        answers = self.answers
        image = sums.view(answers.columns, answers.width)
        values, vectors = torch.linalg.eigh(answers.test_columns().T @ image)
        seen = values > values[-1] * 1e-12
        found = torch.linalg.svd(image @ vectors[:, seen] / values[seen].sqrt(), full_matrices=False).U[
            :, : answers.rank
        ]
        longest = self.incoherence * sqrt(answers.rank / answers.columns)
        return found * (longest / found.norm(dim=1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)
