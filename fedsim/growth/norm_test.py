"""The norm test."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.growth.growth import Growth, Spread, Tolerance, needed


@dataclass(frozen=True, kw_only=True)
class NormTest(Growth):
    """b >= Var_i(g_i) / (eta^2 |g|^2): the mean gradient's standard deviation is at most `eta` of its norm.

    Byrd et al., Sample size selection in optimization methods for machine learning (Math. Program., 2012); AdAdaGrad
    (2402.11215) lets it grow the batches of AdaGrad and AdaGrad-Norm. Variances are summed over all parameters. As
    |g|^2 is that of a batch, it is Var / b too large on average: small batches pass sooner than they should.
    """

    eta: Tolerance = 0.1

    def wanted(self, spread: Spread) -> float:
        """See `Growth`."""
        return needed(spread.total, self.eta**2 * spread.square)
