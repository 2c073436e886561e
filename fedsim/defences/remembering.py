"""Rules that remember what clients have sent before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedsim.defences.defence import Combined, Defence, Sender, Some, alike, chosen, weighted

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass
class FoolsGold(Defence):
    """A mean in which clients count less the more their updates have pointed the same way as another's: sybils.

    Fung, Yoon and Beschastnikh, The Limitations of Federated Learning in Sybil Settings (RAID 2020), Algorithm 1, with
    all parameters as features and weights that sum to 1. It says nothing against liars who differ.
    """

    confidence: Positive = 1.0
    liars: Some = 0
    history: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)
    """Each client's updates so far, summed, (P,)."""

    def among(self, rows: Tensor, senders: Sequence[Sender]) -> Combined:
        """See `Defence`."""
        for sender, row in zip(senders, rows, strict=True):
            known = self.history.get(sender.client)
            self.history[sender.client] = row if known is None else known + row
        clients = sorted({sender.client for sender in senders})
        trusts = self.trust(torch.stack([self.history[client] for client in clients]))
        trust = torch.stack([trusts[clients.index(sender.client)] for sender in senders])
        return weighted(rows, trust / trust.sum()) if trust.any() else weighted(rows, alike(rows))

    def middle(self, rows: Tensor) -> Combined:
        """Without a memory."""
        return self.among(rows, [Sender(place) for place in range(len(rows))])

    def trust(self, history: Tensor) -> Tensor:
        """In [0, 1], of clients with these summed updates (n, P); 0 for all where they all point the same way."""
        if len(history) == 1:
            return history.new_ones(1)
        directions = history / history.norm(dim=1, keepdim=True).clamp_min(1e-300)
        similar = (directions @ directions.T).fill_diagonal_(-torch.inf)
        most = similar.amax(dim=1)
        pardon = torch.where(most[None] > most[:, None], most[:, None] / most[None], 1.0)
        unlike = (1 - (similar * pardon).fill_diagonal_(-torch.inf).amax(dim=1)).clamp(0, 1)
        if unlike.max() < 1e-9:
            return torch.zeros_like(unlike)
        return (self.confidence * ((unlike / unlike.max()).logit(1e-12) + 0.5)).clamp(0, 1)


@dataclass
class AsyncFilter(Defence):
    """The mean without those updates that lie farthest from others which started from the same version.

    Kang and Li, AsyncFilter (Middleware 2024), as in their public code: of each version that three updates or more have
    started from, a mean over steps; the distances from it fall into three clusters, and the farthest is refused. So it
    also refuses somebody where nobody lies. Where distances are not of three sizes it refuses nobody.
    """

    liars: Some = 0
    remember: ClassVar[int] = 20
    """So many versions back, as there."""
    means: dict[int, tuple[Tensor, int]] = field(default_factory=dict, init=False, repr=False)
    """Of updates by the version that they started from, (P,), and how many they were."""

    def among(self, rows: Tensor, senders: Sequence[Sender]) -> Combined:
        """See `Defence`."""
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for place, sender in enumerate(senders):
            groups[sender.version].append(place)
        refused: set[int] = set()
        for version, places in groups.items():
            if len(places) >= 3:
                weights = rows.new_tensor([senders[place].weight for place in places])
                refused |= {places[far] for far in self.far(version, rows[places] / weights[:, None])}
        newest = max(groups)
        self.means = {version: mean for version, mean in self.means.items() if version > newest - self.remember}
        return chosen(rows, [place for place in range(len(rows)) if place not in refused])

    def middle(self, rows: Tensor) -> Combined:
        """As if all had started from the same version."""
        return self.among(rows, [Sender(place) for place in range(len(rows))])

    def far(self, version: int, group: Tensor) -> list[int]:
        """Which of a group's updates (m, P) are to be refused."""
        before, count = self.means.get(version, (torch.zeros_like(group[0]), 0))
        mean = (before * count + group.sum(dim=0)) / (count + len(group))
        self.means[version] = mean, count + len(group)
        return farthest((group - mean).norm(dim=1).tolist())


def farthest(values: Sequence[float], clusters: int = 3) -> list[int]:
    """Places of the highest of so many clusters: k-means on a line, whose optimum is found by trying all borders.

    >>> farthest([1.0, 9.0, 1.1, 2.0, 8.5, 2.1])
    [1, 4]
    """
    order = sorted(range(len(values)), key=lambda place: values[place])
    line = [values[place] for place in order]
    if len(set(line)) < clusters:
        return []
    borders = combinations([at for at in range(1, len(line)) if line[at - 1] < line[at]], clusters - 1)
    best = min(borders, key=lambda cuts: sum(_spread(line[a:b]) for a, b in pairwise((0, *cuts, len(line)))))
    return sorted(order[best[-1] :])


def _spread(part: Sequence[float]) -> float:
    """Squared distances from the mean, summed."""
    mean = sum(part) / len(part)
    return sum((value - mean) ** 2 for value in part)
