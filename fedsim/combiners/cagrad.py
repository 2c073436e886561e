"""CAGrad: conflict-averse gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Annotated

import numpy as np
from pydantic import Field
from torch import Tensor

from fedsim.combiners.combiner import Memory


@dataclass(frozen=True)
class CAGrad:
    """Within a ball of c times its length around the mean, the direction whose worst agreement with any is the best.

    Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning (NeurIPS 2021), Algorithm 1: with g_0 the mean
    and phi = c^2 |g_0|^2, weights w of the simplex minimise g_w . g_0 + sqrt(phi) |g_w|, and the direction is
    g_0 + sqrt(phi) / |g_w| g_w. With c = 0 it is the mean; it is another one wherever directions differ. The dual
    problem is one of n numbers, solved in the products of the directions.
    """

    c: Annotated[float, Field(ge=0, lt=1)] = 0.5

    def combine(self, rows: Tensor, names: Sequence[int], turn: int, memory: Memory) -> Tensor:
        """See `Combiner`."""
        mean = rows.mean(dim=0)
        length = float(mean.norm())
        if self.c == 0 or length == 0:
            return mean
        mixed = rows.new_tensor(self.weights((rows @ rows.T).cpu().numpy())) @ rows
        return mean + self.c * length / max(float(mixed.norm()), 1e-300) * mixed

    def weights(self, products: np.ndarray) -> np.ndarray:
        """w, (n,), from all scalar products of the directions (n, n)."""
        count, scale = len(products), float(np.trace(products)) / len(products)
        gram = products / scale
        to_mean, reach = gram.mean(axis=1), self.c * sqrt(max(0.0, float(gram.mean())))

        def dual(w: np.ndarray) -> tuple[float, np.ndarray]:
            length = sqrt(max(float(w @ gram @ w), 1e-16))
            return float(w @ to_mean) + reach * length, to_mean + reach * (gram @ w) / length

        from scipy.optimize import minimize  # slow to import, and few need it

        found = minimize(dual, np.full(count, 1 / count), jac=True, method="SLSQP", bounds=[(0, 1)] * count,
                         constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(count)},
                         options={"ftol": 1e-14, "maxiter": 500})  # fmt: skip
        return np.clip(found.x, 0, None) / np.clip(found.x, 0, None).sum()
