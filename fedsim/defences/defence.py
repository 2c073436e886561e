"""What every robust way to combine updates answers to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor

from fedsim.errors import RunFailed

Some = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Combined(NamedTuple):
    """What a defence makes of m updates."""

    vector: Tensor
    """(P,)."""
    shares: Tensor
    """How much each update counts in it, (m,): where a rule works by coordinates, the mean over these."""


class Sender(NamedTuple):
    """Whose update it is, and which version of the model it started from."""

    client: int
    version: int = 0
    weight: float = 1.0
    """What the update was multiplied by, as it is stale."""


class Guard(Protocol):
    """What can defend a peer, which has a model of its own to hold on to."""

    def around(self, own: Tensor, heard: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """What it makes of its own model and those that it hears, (P,) each, with these weights in its mixing."""
        ...


class Defence(ABC):
    """Combines updates of which up to `liars` may be anything."""

    liars: int

    def combine(self, updates: Sequence[Tensor], senders: Sequence[Sender] = ()) -> Combined:
        """Of updates (P,), in their dtype, computed in float64; those that are not finite do not count.

        RunFailed if so few are left that nothing can be said against so many liars.
        """
        rows = torch.stack([update.double() for update in updates])
        if not rows.shape[1]:  # as where nothing is trained
            return Combined(updates[0], alike(rows))
        sound = rows.isfinite().all(dim=1)
        if len(rows) < self.least or not sound.any():
            raise RunFailed(
                f"{type(self).__name__} needs {self.least} updates against {self.liars} liars, "
                f"and has {len(rows)}, of which {int(sound.sum())} are finite"
            )
        senders = senders or [Sender(place) for place in range(len(rows))]
        vector, counted = self.among(rows[sound], [sender for sender, fine in zip(senders, sound, strict=True) if fine])
        shares = rows.new_zeros(len(rows))
        shares[sound] = counted
        return Combined(vector.to(updates[0].dtype), shares)

    @property
    def least(self) -> int:
        """How many updates it needs: more honest ones than liars."""
        return 2 * self.liars + 1

    def among(self, rows: Tensor, senders: Sequence[Sender]) -> Combined:
        """Of rows (m, P), float64, of these senders; who they are does not matter to most rules."""
        return self.middle(rows)

    def around(self, own: Tensor, heard: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """See `Guard`: all models count for alike."""
        return self.combine([own, *heard]).vector

    @abstractmethod
    def middle(self, rows: Tensor) -> Combined:
        """Of rows (m, P), float64, whoever sent them."""


def alike(rows: Tensor) -> Tensor:
    """The shares of a mean."""
    return rows.new_full((len(rows),), 1 / len(rows))


def weighted(rows: Tensor, shares: Tensor) -> Combined:
    """The sum of rows (m, P) by these shares (m,)."""
    return Combined(shares @ rows, shares)


def chosen(rows: Tensor, places: Sequence[int]) -> Combined:
    """The mean of the rows at these places."""
    shares = rows.new_zeros(len(rows))
    shares[list(places)] = 1 / len(places)
    return Combined(rows[sorted(places)].mean(dim=0), shares)


def by_coordinates(rows: Tensor, places: Tensor) -> Combined:
    """In every coordinate the mean of the values of these rows: places (k, P)."""
    counts = places.flatten().bincount(minlength=len(rows)).to(rows)
    return Combined(rows.gather(0, places).mean(dim=0), counts / places.numel())


def ranked(scores: Tensor, rows: Tensor) -> list[int]:
    """Places of rows by their scores, the least first; of equals the one nearer to the coordinates' median."""
    away = (rows - rows.quantile(0.5, dim=0)).norm(dim=1).tolist()
    return sorted(range(len(rows)), key=lambda place: (float(scores[place]), away[place]))
