"""What every robust way to combine updates answers to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsim.errors import RunFailed

Some = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Defence(ABC):
    """Combines updates of which up to `liars` may be anything."""

    liars: int

    def combine(self, updates: Sequence[Tensor]) -> Tensor:
        """One vector (P,) of updates (P,), in their dtype, computed in float64; those that are not finite do not count.

        RunFailed if so few are left that nothing can be said against so many liars.
        """
        rows = torch.stack([update.double() for update in updates])
        if not rows.shape[1]:  # as where nothing is trained
            return updates[0]
        sound = rows.isfinite().all(dim=1)
        if len(rows) < self.least or not sound.any():
            raise RunFailed(
                f"{type(self).__name__} needs {self.least} updates against {self.liars} liars, "
                f"and has {len(rows)}, of which {int(sound.sum())} are finite"
            )
        rows = rows[sound]
        return self.middle(rows).to(updates[0].dtype)

    @property
    def least(self) -> int:
        """How many updates it needs: more honest ones than liars."""
        return 2 * self.liars + 1

    @abstractmethod
    def middle(self, rows: Tensor) -> Tensor:
        """Of rows (m, P), float64."""


def distances(rows: Tensor) -> Tensor:
    """Squared, between each two rows: (m, m), symmetric to the last bit."""
    return torch.stack([(rows - row).square().sum(1) for row in rows])


def ranked(scores: Tensor, rows: Tensor) -> list[int]:
    """Places of rows by their scores, the least first; of equals the one nearer to the coordinates' median."""
    away = (rows - rows.quantile(0.5, dim=0)).norm(dim=1).tolist()
    return sorted(range(len(rows)), key=lambda place: (float(scores[place]), away[place]))
