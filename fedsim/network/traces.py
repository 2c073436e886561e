"""Recorded capacities of mobile and fixed lines. Nothing is copied: files stay in the data folders."""

from __future__ import annotations

import csv
import gzip
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal
from zipfile import BadZipFile

import numpy as np

from fedsim.errors import ScenarioError
from fedsim.fleet.reading import find
from fedsim.network.capacity import Recording, Repeated
from fedsim.rng import chance
from fedsim.units import SECOND

Pair = tuple[Recording | None, Recording | None]
"""Down and up; None: as the client's device says."""
Line = tuple[Repeated | None, Repeated | None]

MAHIMAHI = Path("mahimahi_lte/packets_per_100ms.npz")
IRISH = Path("mobile_5g/irish_5g_traces.csv.gz")
PACKET = 1500
"""Bytes."""


@dataclass(frozen=True)
class LineTrace(ABC):
    """Recordings, one of which each client draws, and the moment in it that is time 0; it is repeated when it ends.

    `folders` is given by the run.
    """

    source: ClassVar[str]

    folders: Sequence[Path] = ()

    @abstractmethod
    def recordings(self) -> list[Pair]:
        """All that clients draw from. DataMissing where there is no such file, ScenarioError where it is not fit."""

    def draw(self, clients: int, seed: int) -> list[Line]:
        """For each client the capacity of its line, down and up."""
        pairs = self.recordings()
        if not pairs:
            raise ScenarioError(f"links.trace: {type(self).__name__} has no recording in which anything passes")
        return [
            self._line(pairs[int(chance(seed, "line", client) * len(pairs))], client, seed) for client in range(clients)
        ]

    def _line(self, pair: Pair, client: int, seed: int) -> Line:
        """Both directions begin at the same share of their recordings."""
        share = chance(seed, "line", client, "offset")
        down, up = (part and Repeated(part, int(share * part.ends[-1])) for part in pair)
        return down, up


@dataclass(frozen=True)
class MahimahiLTE(LineTrace):
    """Down and up of cellular lines in the USA, each 100 ms: packets of 1500 bytes that a saturated line let through.

    Recorded with the Saturator of Winstein et al. (NSDI 2013), from the Mahimahi repository (GPL-3.0). Recordings of
    which the data folder has both directions: four of LTE, and one each of UMTS and EVDO (3G). 0.5 to 25 % of the
    100 ms carry nothing.
    """

    source: ClassVar[str] = "Mahimahi's cellular traces"

    radio: Literal["LTE", "UMTS", "EVDO"] = "LTE"

    def recordings(self) -> list[Pair]:
        """Pairs of the same name."""
        origin = "it is made of github.com/ravinet/mahimahi (traces/)"
        tables = read_npz(find(MAHIMAHI, self.folders, origin))
        names = [name.removesuffix("_down") for name in sorted(tables) if name.endswith("_down")]
        both = [name for name in names if f"-{self.radio}-" in name and f"{name}_up" in tables]
        pairs = [(self._one(tables[f"{name}_down"]), self._one(tables[f"{name}_up"])) for name in both]
        return [pair for pair in pairs if all(pair)]

    def _one(self, packets: np.ndarray) -> Recording | None:
        steps = np.arange(1, len(packets) + 1)
        return recording(packets.astype(float) * PACKET * 10, steps * (SECOND // 10))


@dataclass(frozen=True)
class Mobile5G(LineTrace):
    """Down of 21 downloads over an Irish operator's 5G, LTE and HSPA+, standing and driving, each second.

    Raca et al., MMSys 2020 (GPL-3.0). Only downloads count: its video sessions are limited by the player. What it has
    as uplink is acknowledgements of downloads and no capacity, so clients send at the rate of their devices.
    """

    source: ClassVar[str] = "Raca et al.'s 5G downloads"

    def recordings(self) -> list[Pair]:
        """In the order of the file; a value holds until the next, the last one for a second."""
        path = find(IRISH, self.folders, "it is made of github.com/uccmisl/5Gdataset")
        samples: dict[str, dict[int, list[float]]] = {}
        for name, second, rate in read_downloads(path):
            samples.setdefault(name, {}).setdefault(second, []).append(rate)
        return [(one, None) for seconds in samples.values() if (one := self._one(seconds))]

    def _one(self, samples: dict[int, list[float]]) -> Recording | None:
        seconds = np.array(sorted(samples))
        rates = np.array([sum(samples[second]) / len(samples[second]) for second in seconds.tolist()])
        return recording(rates * 1e3 / 8, (np.append(seconds[1:], seconds[-1] + 1) - seconds[0]) * SECOND)


@dataclass(frozen=True)
class Bandwidths(LineTrace):
    """A set of the collection that research on video streaming uses. Only down: clients send at their devices' rate."""

    file: ClassVar[str]

    def recordings(self) -> list[Pair]:
        """A sample is what was measured since the one before it."""
        path = find(Path("bandwidth_traces") / self.file, self.folders,
                    "it is made of github.com/confiwent/Real-world-bandwidth-traces")  # fmt: skip
        tables = read_npz(path, "time_s", "mbps", "offsets")
        times, rates = np.rint(tables["time_s"].astype(float) * SECOND), tables["mbps"].astype(float) * 1e6 / 8
        parts = [slice(*ends) for ends in zip(tables["offsets"], tables["offsets"][1:], strict=False)]
        return [(one, None) for part in parts if (one := self._one(times[part], rates[part]))]

    def _one(self, times: np.ndarray, rates: np.ndarray) -> Recording | None:
        later = np.diff(np.maximum.accumulate(times), prepend=times[:1]) > 0
        return recording(rates[later], times[later] - times[:1])


@dataclass(frozen=True)
class Hsdpa(Bandwidths):
    """Down of 3G commutes in Norway, some 300 s each (Riiser et al., MMSys 2013).

    As collected for research on video streaming (MIT), which kept low rates only: it understates what lines carry.
    """

    source: ClassVar[str] = "Riiser et al.'s 3G commutes"
    file: ClassVar[str] = "hsdpa_cooked_3gp.npz"


@dataclass(frozen=True)
class Fcc(Bandwidths):
    """Down of fixed lines in the USA, some 118 s each (FCC, Measuring Broadband America, public domain).

    As collected for research on video streaming (MIT), which kept low rates only: it understates what lines carry.
    """

    source: ClassVar[str] = "FCC's broadband measurements"
    file: ClassVar[str] = "fcc.npz"


def recording(rates: np.ndarray, ends: np.ndarray) -> Recording | None:
    """Of rates (bytes per second) and when they end (microseconds); None if nothing passes.

    Rates are rounded to whole numbers, and equal ones that follow each other become one.
    """
    whole = np.rint(rates)
    if not whole.any():
        return None
    last = np.append(whole[1:] != whole[:-1], True)
    return Recording(whole[last].tolist(), ends[last].astype(np.int64).tolist())


def read_npz(path: Path, *needed: str) -> dict[str, np.ndarray]:
    """All its tables, the needed ones among them; ScenarioError where it cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as tables:
            found = {name: tables[name] for name in tables.files}
    except (AttributeError, TypeError, ValueError, OSError, EOFError, BadZipFile) as error:
        raise ScenarioError(f"{path} cannot be read as .npz: {error}") from None
    missing = [name for name in needed if name not in found]
    if missing:
        raise ScenarioError(f"{path} has no table {missing[0]!r}")
    return found


def read_downloads(path: Path) -> Iterator[tuple[str, int, float]]:
    """Trace, second and kbit/s of each line of a download."""
    try:
        with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                try:
                    if row["app"] == "Download":
                        yield row["trace"], int(row["t_s"]), _not_negative(row["dl_kbps"])
                except (KeyError, TypeError, ValueError) as error:
                    raise ScenarioError(f"{path}, line {number}: {error!r}") from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ScenarioError(f"{path} cannot be read as CSV in gzip: {error}") from None


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(f"expected a number of kbit/s, 0 or more, not {text!r}")
    return value


TRACES: dict[str, Callable[..., LineTrace]] = {
    "mahimahi_lte": MahimahiLTE,
    "mobile_5g": Mobile5G,
    "hsdpa": Hsdpa,
    "fcc": Fcc,
}
"""What a scenario can name under `links.trace`."""
