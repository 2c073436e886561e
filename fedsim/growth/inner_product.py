"""The augmented inner product test."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.growth.growth import Growth, Spread, Tolerance, needed


@dataclass(frozen=True, kw_only=True)
class InnerProduct(Growth):
    """b >= Var_i(<g_i, g>) / (theta^2 |g|^4), and b >= Var_i(g_i - <g_i, g> g / |g|^2) / (nu^2 |g|^2).

    Bollapragada, Byrd and Nocedal, Adaptive sampling strategies for stochastic optimization (SIAM J. Optim., 2018): the
    mean gradient descends with a large probability, and strays little to the side. In AdAdaGrad (2402.11215) in place
    of the norm test. Products are of all parameters at once; its public code adds up the tests of single tensors.
    """

    theta: Tolerance = 0.1
    nu: Tolerance = 0.1

    def wanted(self, spread: Spread) -> float:
        """See `Growth`."""
        along = needed(spread.along, self.theta**2 * spread.square**2)
        return max(along, needed(spread.across, self.nu**2 * spread.square))
