"""GCond: the gradient conductor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import pi, sin
from typing import Annotated

from pydantic import Field
from torch import Tensor

Cosine = Annotated[float, Field(ge=-1, le=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
SMALL = 1e-8
"""Squared norms below this conflict with nobody."""


@dataclass
class GCond:
    """The pair that points most against each other is made to agree, again and again; then the mean, with momentum.

    arXiv 2509.07252, as its public code (AlevLab-dev/GCond) has it, with its defaults; without accumulation over
    batches, as a client's update is that already. Of a pair with cosine c below `weak` the loser is projected by an
    angle that grows from 0 to pi / 2 at `main` and pi at `critical`, the winner by the same up to pi / 2 and back. Who
    wins: the one that is steadier (0.8) and stronger over its own mean norm (0.2); who has won three times in a row
    loses (in the code; the README of it says that it wins). The paper adds the directions up. State: each name's last
    direction, after projection as in the code, and mean norm, the winners, and the momentum.
    """

    critical: Cosine = -0.8
    main: Cosine = -0.5
    weak: Cosine = 0.0
    power: Annotated[float, Field(gt=0)] = 2.0
    momentum: Share = 0.85
    norms: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    """Moving averages, by name."""
    last: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)
    winners: list[int] = field(default_factory=list, init=False, repr=False)
    speed: Tensor | None = field(default=None, init=False, repr=False)
    turns: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not self.critical < self.main < self.weak:
            raise ValueError("critical has to lie below main, and main below weak")

    def combine(self, rows: Tensor, names: Sequence[int], turn: int) -> Tensor:
        """See `Combiner`; with momentum 0 and without a conflict it is the mean."""
        for name, row in zip(names, rows, strict=True):
            self.norms[name] = max(0.95 * self.norms.get(name, 1.0) + 0.05 * float(row.norm()), SMALL)
        settled = self.settled(rows, names)
        self.last.update(zip(names, settled, strict=True))
        mean = settled.mean(dim=0)
        self.turns += 1
        self.speed = (1 - self.momentum) * mean + (0 if self.speed is None else self.momentum * self.speed)
        return self.speed / (1 - self.momentum**self.turns)

    def settled(self, rows: Tensor, names: Sequence[int]) -> Tensor:
        """The directions (n, P) after at most 2 n of the worst conflicts among them are resolved."""
        rows = rows.clone()
        for _ in range(2 * len(rows)):
            pairs = [(float(rows[i] @ rows[j] / (rows[i].norm() * rows[j].norm())), i, j)
                     for i, j in combinations(range(len(rows)), 2)
                     if min(float(rows[i] @ rows[i]), float(rows[j] @ rows[j])) >= SMALL]  # fmt: skip
            cosine, one, other = min(pairs, default=(self.weak, 0, 0))
            if cosine >= self.weak:
                break
            winner, loser = self.arbitrated(rows, names, one, other)
            self.project(rows, winner, loser, self.angle(cosine))
        return rows

    def angle(self, cosine: float) -> float:
        """In [0, pi], by how much they conflict."""
        if cosine >= self.main:
            return pi / 2 * (1 - (cosine - self.main) / (self.weak - self.main))
        if cosine <= self.critical:
            return pi
        return pi / 2 * (1 + ((cosine - self.main) / (self.critical - self.main)) ** self.power)

    @staticmethod
    def project(rows: Tensor, winner: int, loser: int, angle: float) -> None:
        """Both along the other, as it was."""
        first, second = rows[winner].clone(), rows[loser].clone()
        product = float(first @ second)
        rows[winner] = first - sin(angle) * product / float(second @ second) * second
        rows[loser] = second - sin(min(angle, pi / 2)) * product / float(first @ first) * first

    def arbitrated(self, rows: Tensor, names: Sequence[int], one: int, other: int) -> tuple[int, int]:
        """Who wins, and who loses."""
        strengths = [float(rows[place].norm()) / self.norms[names[place]] for place in (one, other)]
        scores = [
            0.8 * self.steadiness(rows[place], names[place]) + 0.2 * strength / max(sum(strengths), SMALL)
            for place, strength in zip((one, other), strengths, strict=True)
        ]
        winner, loser = (one, other) if scores[0] >= scores[1] else (other, one)
        if self.winners[-3:] == [names[winner]] * 3:
            winner, loser = loser, winner
        self.winners = [*self.winners[-2:], names[winner]]
        return winner, loser

    def steadiness(self, row: Tensor, name: int) -> float:
        """How much it points where it pointed the last time, not below 0."""
        before = self.last.get(name)
        return 0.0 if before is None else max(0.0, float(row @ before / (row.norm() * before.norm()).clamp_min(SMALL)))
