"""FedStale: fresh updates where they are rare, remembered ones where they still tell something."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from fedsim_kernels.language import launches
from pydantic import Field
from torch import Tensor

from fedsim.aggregators.memory import Memory, Place
from fedsim.aggregators.unbiased import Unbiased
from fedsim.work import Update

Share = Annotated[float, Field(ge=0, le=1)]

FORGET = 0.95
"""How much the last round counts beside the present one, for the adaptive beta."""


@dataclass
class FedStale(Unbiased):
    """A convex combination of FedVARP (beta = 1) and FedAvg (beta = 0), both weighted by the inverse of participation.

    Rodio and Neglia, 2024. With h_i the last update of client i, zero at first, a_i its importance and p_i its
    participation, the model moves along

        v = beta * sum_i a_i h_i + sum_{i in S} a_i / p_i * (Delta_i - beta * h_i).

    Whatever beta, the mean of v over who takes part is sum_i a_i Delta_i; its variance is
    sum_i a_i^2 (1 - p_i) / p_i * |Delta_i - beta h_i|^2. Beta "adaptive" is not the paper's but ours: the beta that
    makes this least, estimated from earlier rounds alone, so that v stays unbiased.

    A round in which nobody takes part changes nothing, as in the authors' code.
    """

    beta: Share | Literal["adaptive"] = 0.5
    memory: Place = "ram"
    """Where the last updates are kept, four bytes a parameter of every client heard so far."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of the server's step; the authors' code has 5e-4 here as well as on the clients."""
    last: Memory = field(init=False)
    """h_i, and their sum weighted by a_i."""
    products: list[float] = field(default_factory=lambda: [0.0, 0.0], init=False)
    """Running means of c <Delta, h> and of c |h|^2, for the adaptive beta."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.last = Memory(self.params, self.memory)

    def direction(self, updates: list[Update]) -> Tensor:
        """v; then remember the updates."""
        beta = self.present_beta()
        weights = self.inverse_weights(updates)
        self.learn(updates, weights)
        importances = [self.importance_of(update.client) for update in updates]
        if self.memory == "ram" and launches(self.params):
            news = {update.client: update.delta for update in updates}
            return self.last.stale(news, weights, importances, beta)
        total = beta * self.last.sum
        for update, weight in zip(updates, weights, strict=True):
            total.add_(update.delta - beta * self.last[update.client].double(), alpha=weight)
        for update, importance in zip(updates, importances, strict=True):
            self.last.remember(update.client, update.delta, importance)
        return total.to(self.params.dtype)

    def present_beta(self) -> float:
        """The given one, or what earlier rounds say is best."""
        if self.beta != "adaptive":
            return self.beta
        product, square = self.products
        return min(1.0, max(0.0, product / square)) if square else 0.0

    def learn(self, updates: list[Update], weights: list[float]) -> None:
        """Take a round into account for the adaptive beta.

        The best beta is sum_i c_i <Delta_i, h_i> / sum_i c_i |h_i|^2 with c_i = a_i^2 (1 - p_i) / p_i. A client that
        takes part with chance p_i stands for 1 / p_i rounds, hence another division by p_i: w_i (w_i - a_i) of its
        weight w_i = a_i / p_i.
        """
        if self.beta != "adaptive":
            return
        product = square = 0.0
        for update, weight in zip(updates, weights, strict=True):
            stale = self.last[update.client].double()
            counts = weight * (weight - self.importance_of(update.client))
            product += counts * float(update.delta.double() @ stale)
            square += counts * float(stale @ stale)
        self.products = [FORGET * old + new for old, new in zip(self.products, (product, square), strict=True)]

    def move(self, direction: Tensor) -> None:
        """Along v, after the server's weight decay."""
        super().move(direction - self.weight_decay * self.params)
