"""GCond: the gradient conductor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import pi, sin
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedsim.combiners.combiner import Memory

Cosine = Annotated[float, Field(ge=-1, le=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
SMALL = 1e-8
"""Squared norms below this conflict with nobody."""


@dataclass(frozen=True)
class GCond:
    """The pair that points most against each other is made to agree, again and again; then the mean, with momentum.

    arXiv 2509.07252, as its public code (AlevLab-dev/GCond) has it, with its defaults; accumulation over batches is the
    source `combined`'s, with `batches: own`, and a client's update is that already. Of a pair with cosine c below
    `weak` the loser is projected by an angle that grows from 0 to pi / 2 at `main` and pi at `critical`, the winner by
    the same up to pi / 2 and back. Who wins: the one that is steadier (0.8) and stronger over its own mean norm (0.2);
    who has won three times in a row loses (in the code; the README of it says that it wins). The paper adds the
    directions up. It remembers each name's last direction, after projection as in the code, and mean norm, the last
    winners, and the momentum.
    """

    critical: Cosine = -0.8
    main: Cosine = -0.5
    weak: Cosine = 0.0
    power: Annotated[float, Field(gt=0)] = 2.0
    momentum: Share = 0.85

    def __post_init__(self) -> None:
        if not self.critical < self.main < self.weak:
            raise ValueError("critical has to lie below main, and main below weak")

    def combine(self, rows: Tensor, names: Sequence[int], turn: int, memory: Memory) -> Tensor:
        """See `Combiner`; with momentum 0 and without a conflict it is the mean."""
        for name, row in zip(names, rows, strict=True):
            usual = memory.get(f"norm {name}", row.new_ones(()))
            memory[f"norm {name}"] = (0.95 * usual + 0.05 * row.norm()).clamp_min(SMALL)
        settled = self.settled(rows, names, memory)
        memory.update({f"last {name}": row.clone() for name, row in zip(names, settled, strict=True)})
        mean, turns = settled.mean(dim=0), memory.get("turns", torch.tensor(0)) + 1
        speed = (1 - self.momentum) * mean + self.momentum * memory.get("speed", torch.zeros_like(mean))
        memory.update(turns=turns, speed=speed)
        return speed / (1 - self.momentum ** int(turns))

    def settled(self, rows: Tensor, names: Sequence[int], memory: Memory) -> Tensor:
        """The directions (n, P) after at most 2 n of the worst conflicts among them are resolved."""
        rows = rows.clone()
        for _ in range(2 * len(rows)):
            pairs = [(float(rows[i] @ rows[j] / (rows[i].norm() * rows[j].norm())), i, j)
                     for i, j in combinations(range(len(rows)), 2)
                     if min(float(rows[i] @ rows[i]), float(rows[j] @ rows[j])) >= SMALL]  # fmt: skip
            cosine, one, other = min(pairs, default=(self.weak, 0, 0))
            if cosine >= self.weak:
                break
            winner, loser = self.arbitrated(rows, names, (one, other), memory)
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

    def arbitrated(self, rows: Tensor, names: Sequence[int], pair: tuple[int, int], memory: Memory) -> tuple[int, int]:
        """Who wins, and who loses."""
        strengths = [float(rows[place].norm() / memory[f"norm {names[place]}"]) for place in pair]
        scores = [
            0.8 * self.steadiness(rows[place], memory.get(f"last {names[place]}"))
            + 0.2 * strength / max(sum(strengths), SMALL)
            for place, strength in zip(pair, strengths, strict=True)
        ]
        winner, loser = pair if scores[0] >= scores[1] else pair[::-1]
        winners = memory["winners"].tolist() if "winners" in memory else []
        if winners == [names[winner]] * 3:
            winner, loser = loser, winner
        memory["winners"] = torch.tensor([*winners[-2:], names[winner]])
        return winner, loser

    @staticmethod
    def steadiness(row: Tensor, before: Tensor | None) -> float:
        """How much it points where it pointed the last time, not below 0."""
        return 0.0 if before is None else max(0.0, float(row @ before / (row.norm() * before.norm()).clamp_min(SMALL)))
