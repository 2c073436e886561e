"""Updates that have many others near them."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim_kernels.distances import distances
from torch import Tensor

from fedsim.defences.coordinates import nearest_mean
from fedsim.defences.defence import Combined, Count, Defence, Some, chosen, ranked


def scores(apart: Tensor, liars: int) -> Tensor:
    """Of each row, the sum of squared distances (m, m) to its m - liars - 2 nearest others, at least one."""
    nearest = max(1, len(apart) - liars - 2)
    return apart.sort(dim=1).values[:, 1 : 1 + nearest].sum(dim=1)


@dataclass(frozen=True)
class Krum(Defence):
    """The mean of the `keep` updates with the nearest neighbours: Krum, or Multi-Krum for more than one.

    Blanchard et al., Machine Learning with Adversaries (NIPS 2017).
    """

    liars: Some
    keep: Count = 1

    @property
    def least(self) -> int:
        """2 liars + 3, as the paper proves; and those that are kept must be among honest ones."""
        return max(2 * self.liars + 3, self.keep + self.liars)

    def middle(self, rows: Tensor) -> Combined:
        """See `Defence`."""
        return chosen(rows, ranked(scores(distances(rows), self.liars), rows)[: self.keep])


@dataclass(frozen=True)
class Bulyan(Defence):
    """Krum again and again until m - 2 liars are chosen, of which in every coordinate those nearest the median count.

    El Mhamdi, Guerraoui and Rouault, The Hidden Vulnerability of Distributed Learning in Byzantium (ICML 2018): m - 4
    liars of them.
    """

    liars: Some

    @property
    def least(self) -> int:
        """4 liars + 3."""
        return 4 * self.liars + 3

    def middle(self, rows: Tensor) -> Combined:
        """See `Defence`."""
        apart, left = distances(rows), list(range(len(rows)))
        picked: list[int] = []
        while len(picked) < max(1, len(rows) - 2 * self.liars):
            among = scores(apart[left][:, left], self.liars) if len(left) > 1 else rows.new_zeros(1)
            picked.append(left.pop(ranked(among, rows[left])[0]))
        picked.sort()
        vector, counted = nearest_mean(rows[picked], max(1, len(picked) - 2 * self.liars))
        shares = rows.new_zeros(len(rows))
        shares[picked] = counted
        return Combined(vector, shares)
