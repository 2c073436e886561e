"""Who takes part: devices, and when they are there, slow or broken. Knows time, and no numbers of learning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fedsim.fleet import adversaries, availability, devices, participation, rates, stragglers
from fedsim.fleet.availability import Availability
from fedsim.fleet.devices import Device, Devices
from fedsim.fleet.failures import Failures, Fate
from fedsim.fleet.participation import Participation
from fedsim.fleet.rates import Rates
from fedsim.fleet.stragglers import Stragglers
from fedsim.units import FOREVER, SECOND

__all__ = [
    "AVAILABILITY",
    "DEVICES",
    "PARTICIPATION",
    "RATES",
    "STRAGGLERS",
    "Availability",
    "Device",
    "Devices",
    "Failures",
    "Fate",
    "Fleet",
    "Participation",
    "Rates",
    "Stragglers",
]

DEVICES: dict[str, Callable[..., Devices]] = {
    "constant": devices.Constant,
    "lognormal": devices.Lognormal,
    "fedscale": devices.FedScale,
    "ai_benchmark": devices.AIBenchmark,
    "csv": devices.Csv,
    "linear": devices.Linear,
}
AVAILABILITY: dict[str, Callable[..., Availability]] = {
    "always": Availability,
    "markov": availability.Markov,
    "diurnal": availability.Diurnal,
    "trace": availability.Trace,
}
PARTICIPATION: dict[str, Callable[..., Participation]] = {
    "always": Participation,
    "bernoulli": participation.Bernoulli,
    "markov": participation.Markov,
    "cyclic": participation.Cyclic,
}
RATES: dict[str, Callable[..., Rates]] = {
    "same": rates.Same,
    "groups": rates.Groups,
    "label_correlated": rates.LabelCorrelated,
}
STRAGGLERS: dict[str, Callable[..., Stragglers]] = {
    "none": Stragglers,
    "lognormal": stragglers.Lognormal,
    "pareto": stragglers.Pareto,
    "exponential": stragglers.Exponential,
    "gilbert_elliott": stragglers.GilbertElliott,
    "trace": stragglers.Trace,
    "bursty": adversaries.BurstyStragglers,
    "arbitrary": adversaries.ArbitraryStragglers,
    "per_round": adversaries.StragglersPerRound,
}


@dataclass(frozen=True)
class Fleet:
    """All clients, numbered as their devices are, and what the clock has to know of them.

    >>> fleet = Fleet([Device(down=1e6, up=1e6, seconds_per_example=0.03)])
    >>> fleet.training_time(0, ordinal=0, examples=10, flops_per_example=1e6)
    300000
    """

    devices: list[Device] = field(repr=False)
    availability: Availability = field(default_factory=Availability)
    participation: Participation = field(default_factory=Participation)
    stragglers: Stragglers = field(default_factory=Stragglers)
    failures: Failures = field(default_factory=Failures)
    seed: int = 0

    def training_time(self, client: int, ordinal: int, examples: int, flops_per_example: float) -> int:
        """Microseconds, at least 1, that the client's n-th local training takes, if it succeeds."""
        usual = self.devices[client].training_time(examples, flops_per_example)
        factor = self.stragglers.factor(client, ordinal, self.seed)
        late = round(min(self.stragglers.delay(client, ordinal, self.seed) * SECOND, FOREVER))
        return late + (usual if factor == 1 else math.ceil(min(usual * factor, FOREVER)))

    def fate(self, client: int, ordinal: int) -> Fate | None:
        """What befalls the client's n-th local training; None where it succeeds."""
        return self.failures.fate(client, ordinal, self.seed)

    def windows(self, client: int) -> Iterator[tuple[int, int]]:
        """When the client is on: [start, end) in microseconds, see Availability."""
        return self.availability.windows(client, self.seed)

    @property
    def complete(self) -> bool:
        """Whether everybody takes part in every round, so that nobody has to be asked."""
        return all(self.participation.share(client) == 1 for client in range(len(self.devices)))

    @property
    def reliable(self) -> bool:
        """Whether everybody who is asked answers: nobody goes away, and nobody breaks."""
        return type(self.availability) is Availability and not self.failures.possible
