"""How fast each client computes and how wide its own link is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, ClassVar, Protocol

import numpy as np
from pydantic import Field

from fedsim.errors import ScenarioError, nearest
from fedsim.fleet.reading import Row, above_zero, find, rows
from fedsim.rng import stream
from fedsim.units import FOREVER, SECOND, Duration, Rate, Speed, rate

TRAINING_PER_INFERENCE = 3.0
"""Cost of training on an example, in inferences: FedScale's get_completion_time with augmentation_factor 3.0."""

TABLES = Path(__file__).with_name("tables")
PHONES = Path("ai_benchmark/propius_ai_benchmark_2023.csv")
WIFI = Path("ai_benchmark/flash_wifi_speed_20devices.csv")
COLUMNS = ("name", "down", "up", "ms_per_example", "gflops", "count", "share")
"""What a user's own table may hold."""

Sigma = Annotated[float, Field(ge=0, le=10)]


@dataclass(frozen=True, slots=True)
class Device:
    """What one client computes and talks with.

    >>> Device(down=1e6, up=1e6, seconds_per_example=0.03).training_time(10, flops_per_example=1e6)
    300000
    >>> Device(down=1e6, up=1e6, flops=1e9).training_time(10, flops_per_example=1e6)
    10000
    """

    down: float
    """Bytes/s that it can receive; may be infinite."""
    up: float
    """Bytes/s that it can send; may be infinite."""
    seconds_per_example: float | None = None
    """Measured time of one training example, whatever the model."""
    flops: float | None = None
    """Sustained FLOP/s, asked only where nothing was measured."""
    overhead: int = 0
    """Microseconds before the first example, of starting up."""
    per_training: int | None = None
    """Microseconds of a whole local training, whatever the model and its size; wins over the other two."""

    def __post_init__(self) -> None:
        if not (self.down > 0 and self.up > 0):
            raise ValueError(f"a device needs bandwidth above zero, not {self.down} down and {self.up} up (bytes/s)")
        paces = {what: getattr(self, what) for what in ("seconds_per_example", "flops", "per_training")}
        if all(value is None for value in paces.values()):
            raise ValueError(f"a device needs a pace: {', '.join(paces)}")
        for what, value in paces.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"a device needs {what} finite and above zero, not {value}")

    def training_time(self, examples: int, flops_per_example: float) -> int:
        """Microseconds, at least 1, to train on so many examples (each counted as often as it is seen)."""
        if self.per_training is not None:
            return self.per_training
        if self.seconds_per_example is not None:
            seconds = examples * self.seconds_per_example
        else:
            assert self.flops is not None
            seconds = examples * flops_per_example / self.flops
        return max(1, self.overhead + round(min(seconds * SECOND, FOREVER)))


class Devices(Protocol):
    """A way to equip a fleet.

    A client's device depends on its number and the seed, never on the size of the fleet (but for `linear`).
    """

    def draw(self, clients: int, seed: int) -> list[Device]:
        """One device for each client."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same device for everybody. Its defaults are synthetic.

    `per_example` is the measured time of one training example; where given, it wins over `speed`. `overhead` is what
    each local training costs beside its examples.
    """

    speed: Speed | None = 10e9
    per_example: Duration | None = None
    down: Rate = 20e6 / 8
    up: Rate = 5e6 / 8
    overhead: Duration = 0

    def __post_init__(self) -> None:
        self._device()  # refuses nonsense now

    def draw(self, clients: int, seed: int) -> list[Device]:
        """One device for each client."""
        return [self._device()] * clients

    def _device(self) -> Device:
        measured = None if self.per_example is None else self.per_example / SECOND
        return Device(self.down, self.up, measured, self.speed, self.overhead)


@dataclass(frozen=True)
class Linear:
    """Times of a whole local training that fall in equal steps from the first client to the last.

    Client i of M needs slowest - i / (M - 1) * (slowest - fastest), to the microsecond, whatever the model and its
    size. On a star without latency and with unlimited links that is the whole round trip: the hardware scenario F-X of
    FedFix (Fraboni et al., JMLR 2023), in which the fastest needs X percent less than the slowest. The default is F-80
    in units of a second; F-0 has `fastest` at 1 s too.
    """

    source: ClassVar[str] = "synthetic"

    slowest: Duration = SECOND
    fastest: Duration = SECOND // 5
    down: Rate = math.inf
    up: Rate = math.inf

    def __post_init__(self) -> None:
        if not 0 < self.fastest <= self.slowest:
            raise ValueError("linear needs times above zero, and a fastest that is not slower than the slowest")
        self._device(self.slowest)  # refuses nonsense now

    def draw(self, clients: int, seed: int) -> list[Device]:
        """One device for each client."""
        gain, steps = self.slowest - self.fastest, max(1, clients - 1)
        return [self._device(round(self.slowest - Fraction(client * gain, steps))) for client in range(clients)]

    def _device(self, time: int) -> Device:
        return Device(self.down, self.up, per_training=time)


@dataclass(frozen=True)
class Lognormal:
    """Speed and bandwidth spread by independent log-normal factors around their medians. Its defaults are synthetic.

    Both directions of a client's link share one factor: who has a poor link has it both ways.
    """

    speed: Speed = 10e9
    speed_sigma: Sigma = 0.6
    down: Rate = 20e6 / 8
    up: Rate = 5e6 / 8
    bandwidth_sigma: Sigma = 0.8

    def __post_init__(self) -> None:
        Device(self.down, self.up, flops=self.speed)  # refuses nonsense now

    def draw(self, clients: int, seed: int) -> list[Device]:
        """One device for each client."""
        speeds = self.speed * np.exp(self.speed_sigma * stream(seed, "device", "speed").standard_normal(clients))
        links = np.exp(self.bandwidth_sigma * stream(seed, "device", "bandwidth").standard_normal(clients))
        return [
            Device(self.down * link, self.up * link, flops=speed)
            for speed, link in zip(speeds.tolist(), links.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class FedScale:
    """Phones with FedScale's published computation times and bandwidths (see tables/README.md).

    Computation is milliseconds of inference per example, times 3 for training, whatever the model. Bandwidth serves
    both directions, as there. The two are drawn independently, as only their marginals are public.
    """

    source: ClassVar[str] = "FedScale's marginals"

    def draw(self, clients: int, seed: int) -> list[Device]:
        """One device for each client."""
        milliseconds = quantiles("fedscale_computation_ms.csv", stream(seed, "device", "speed").random(clients))
        kilobits = quantiles("fedscale_communication_kbps.csv", stream(seed, "device", "bandwidth").random(clients))
        seconds = (milliseconds * (TRAINING_PER_INFERENCE / 1e3)).tolist()
        rates = (kilobits * (1e3 / 8)).tolist()
        return [Device(link, link, second) for second, link in zip(seconds, rates, strict=True)]


def quantiles(table: str, levels: np.ndarray) -> np.ndarray:
    """Inverse distribution function of a histogram in tables/, uniform within each bin, at levels in [0, 1)."""
    low, high, counts = np.loadtxt(TABLES / table, delimiter=",", skiprows=1, unpack=True)
    edges = np.append(low, high[-1])
    below = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    return np.interp(levels, below, edges)


@dataclass(frozen=True)
class AIBenchmark:
    """Phones drawn evenly from AI-Benchmark's 2023 ranking, each on the Wi-Fi of one of FLASH's 19 measured devices.

    The ranking's CPU latency counts as milliseconds of inference per example, times 3 for training, whatever the model.
    A device's Wi-Fi is its mean rate. `folders` is given by the run; the ranking states no licence, so it is not here.
    """

    source: ClassVar[str] = "AI-Benchmark 2023, FLASH's Wi-Fi"

    folders: Sequence[Path] = ()

    def draw(self, clients: int, seed: int) -> list[Device]:
        """One device for each client."""
        seconds = stream(seed, "device", "speed").choice(self._latencies(), size=clients).tolist()
        links = stream(seed, "device", "bandwidth").choice(self._links(), size=clients).tolist()
        return [Device(down, up, second) for second, (down, up) in zip(seconds, links, strict=True)]

    def _latencies(self) -> list[float]:
        """Seconds per training example of every phone whose latency can be trusted."""
        origin = (
            "it is ai-benchmark.com's ranking, as collected in github.com/EricDinging/Propius (datasets/device_info)"
        )
        table = rows(find(PHONES, self.folders, origin), ["latency_ms", "suspect_latency"])
        trusted = [row for row in table if row.cells["suspect_latency"] == "False"]
        if not trusted:
            raise ScenarioError(f"{table[0].path} has no phone with suspect_latency False")
        return [row.read("latency_ms", above_zero) * TRAINING_PER_INFERENCE / 1e3 for row in trusted]

    def _links(self) -> list[tuple[float, float]]:
        """Bytes/s down and up of every measured Wi-Fi."""
        origin = "it is to be had from github.com/PKU-Chengxu/FLASH"
        table = rows(find(WIFI, self.folders, origin), ["down_mean_kBps", "up_mean_kBps"])
        return [
            (row.read("down_mean_kBps", above_zero) * 1e3, row.read("up_mean_kBps", above_zero) * 1e3) for row in table
        ]


@dataclass(frozen=True)
class Csv:
    """The user's own table of devices.

    Columns: `down` and `up` with their unit (`10 Mbit/s`); either `ms_per_example` (training, measured) or `gflops`;
    perhaps a `name`; perhaps `count` (the line stands for so many clients) or `share` (of the fleet, in any unit).
    Clients take the lines in order, each `count` times; clients beyond the last line draw one, in proportion to
    `count`. With `share`, every client draws. `folders` is given by the run: a relative path is also looked up there.
    """

    source: ClassVar[str] = "the user's table"

    path: Path
    folders: Sequence[Path] = ()

    def draw(self, clients: int, seed: int) -> list[Device]:
        """One device for each client."""
        table = rows(find(self.path, (Path(), *self.folders)), ["down", "up"])
        speed, weight = _speed_column(table[0]), _weight_column(table[0])
        devices = [_device(row, speed) for row in table]
        weights = [row.read(weight, above_zero if weight == "share" else _whole) if weight else 1 for row in table]
        lasts = np.cumsum(np.array(weights, dtype=float))
        turn = np.arange(clients)
        drawn = stream(seed, "device", "line").random(clients) * lasts[-1]
        position = drawn if weight == "share" else np.where(turn < lasts[-1], turn, drawn)
        lines = np.searchsorted(lasts[:-1], position, side="right")  # the last line takes all that is left
        return [devices[line] for line in lines.tolist()]


def _speed_column(row: Row) -> str:
    columns = [column for column in ("ms_per_example", "gflops") if column in row.cells]
    if len(columns) != 1:
        raise ScenarioError(f"{row.path}, line 1: needs either a column ms_per_example or a column gflops")
    return columns[0]


def _weight_column(row: Row) -> str | None:
    for column in row.cells:
        if column not in COLUMNS:
            raise ScenarioError(f"{row.path}, line 1: unknown column {column!r}, {nearest(column, COLUMNS)}")
    if "count" in row.cells and "share" in row.cells:
        raise ScenarioError(f"{row.path}, line 1: has both columns count and share")
    return next((column for column in ("count", "share") if column in row.cells), None)


def _device(row: Row, speed: str) -> Device:
    value = row.read(speed, above_zero)
    measured, flops = (value / 1e3, None) if speed == "ms_per_example" else (None, value * 1e9)
    return Device(row.read("down", _bandwidth), row.read("up", _bandwidth), measured, flops)


def _bandwidth(text: str) -> float:
    value = rate(text)
    if value == 0:
        raise ValueError(f"expected a bandwidth above zero, not {text!r}")
    return value


def _whole(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 10**15):
        raise ValueError(f"expected a whole number above zero, not {text!r}")
    return int(text)
