"""FedNova: unequal numbers of local steps must not move the optimum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedsim.aggregators.fedavg import shares
from fedsim.aggregators.rounds import Rounds
from fedsim.vector import weighted_sum
from fedsim.work import Update


@dataclass
class FedNova(Rounds):
    """The mean direction of a local step, times the mean number of steps; both weighted by examples.

    Wang et al., NeurIPS 2020, equation 6: with n_i the share of examples and t_i the effective number of local steps,
    (sum n_i t_i) * sum n_i Delta_i / t_i. Under SGD with momentum, which `local` sets, a step lives on in later ones:
    t_i = (t - m (1 - m^t) / (1 - m)) / (1 - m) for t steps and momentum m.
    """

    reads_steps: ClassVar[bool] = True
    """Whether it has to know how many local steps were taken."""
    local_momentum: float | None = 0.0
    """Of the clients' SGD, given by the run; none: they run another optimizer, or Nesterov's, or some steps count
    for less, and there is no t_i."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.local_momentum is None:
            raise ValueError(
                "fednova needs clients whose optimizer is sgd, without nesterov, schedule, control or growth"
            )

    @property
    def linear(self) -> bool:
        """Weights depend on counts alone."""
        return True

    def effective(self, steps: int) -> float:
        """t_i."""
        m = self.local_momentum or 0.0
        return (steps - m * (1 - m**steps) / (1 - m)) / (1 - m)

    def direction(self, updates: list[Update]) -> Tensor:
        """The mean direction, as far as all go on average."""
        parts = shares(updates)
        efforts = [self.effective(max(1, update.steps)) for update in updates]
        mean = sum(part * effort for part, effort in zip(parts, efforts, strict=True))
        weights = [mean * part / effort for part, effort in zip(parts, efforts, strict=True)]
        return weighted_sum([update.delta for update in updates], weights)
