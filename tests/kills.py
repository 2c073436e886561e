"""What tests of resuming share: scenarios of all kinds, and runs that are killed between two events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from test_coded import DIGITS as CODED
from test_coded import EVERY as CODES
from test_edges import TREE  # noqa: F401
from test_every_aggregator import DIGITS, NEEDS, SETTINGS
from test_every_peer import DIGITS as PEERS
from test_every_peer import NEEDS as MIXED

from fedsim import conduct, experiment, scenario
from fedsim.aggregators import AGGREGATORS
from fedsim.coding import CODES as EVERY_CODE
from fedsim.keeping import Keeper
from fedsim.peers import PEERS as EVERY_PEER
from fedsim.progress import Progress
from fedsim.results import Run
from fedsim.rng import stream

SHORT = {"until": {"versions": 6}, "evaluate": {"every": "1 min"}}
ROUGH = {"clients": 8, "devices": "fedscale", "availability": {"markov": {"on": "2 h", "off": "10 min"}}, "drop": 0.2}
"""Clients come, go and break."""
SLOW = {"network": {"ring": {"capacity": "1 kbit/s", "latency": "10 ms"}},
        "fleet": {"clients": 8, "devices": "fedscale", "stragglers": {"lognormal": {"sigma": 0.5}}}}  # fmt: skip
"""A message takes longer than a training, and no two trainings take equally long."""
CALM = {"clients": 8, "devices": "fedscale"}
MLP = {"model": {"mlp": {"hidden": [8]}}}


def of(aggregator: str, local: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A server's run."""
    base = DIGITS | SHORT | {"fleet": ROUGH} | SETTINGS.get(aggregator, {})
    local = {**base["local"], **(local or {})}
    arguments = changes.pop("with_", {})
    return base | {"aggregator": {aggregator: NEEDS.get(aggregator, {}) | arguments}, "local": local} | changes


def among_peers(name: str, **changes: Any) -> dict[str, Any]:
    """A run without a server."""
    return PEERS | SHORT | SLOW | {"peers": {name: MIXED.get(name, {})}} | changes


def by_code(name: str, **changes: Any) -> dict[str, Any]:
    """A run with gradient codes."""
    rough = {**CODED["fleet"], "drop": 0.05}
    code = {"coding": {name: {"models": 3, **CODES[name]}}}
    return CODED | {"until": {"versions": 8}, "model": "logistic", "fleet": rough} | code | changes


ALL = (
    {name: of(name) for name in AGGREGATORS}
    | {name: among_peers(name) for name in EVERY_PEER}
    | {name: by_code(name) for name in EVERY_CODE}
)
"""Every member of the three families."""


class Killed(BaseException):
    """As if the process had ended."""


class Mortal(Keeper):
    """Writes a checkpoint before these turns, and then dies."""

    ends: Sequence[int] = ()
    last = 0

    def look(self, progress: Progress) -> None:
        """Perhaps the end."""
        Mortal.last = progress.turns
        if progress.turns in self.ends:
            self.write()
            raise Killed


def killed_at(turns: Sequence[int], monkeypatch: Any) -> None:
    """From now on, runs are killed before these turns."""
    monkeypatch.setattr(Mortal, "ends", turns)
    monkeypatch.setattr(conduct, "Keeper", Mortal)


def run(out: Path, base: Mapping[str, Any], **arguments: Any) -> Run:
    """All objects anew."""
    (arm,) = scenario.read(base)
    return conduct.conduct(experiment.assemble(arm), out, **arguments)


def whole(out: Path, base: Mapping[str, Any], monkeypatch: Any) -> tuple[Run, int]:
    """Uninterrupted, and how many turns it took."""
    killed_at((), monkeypatch)
    return run(out, base), Mortal.last


def some(turns: int, count: int, *name: object) -> list[int]:
    """Different turns at random, in order; each is an address of its own."""
    return sorted(1 + stream(5, "kills", *name).permutation(turns)[:count])


def resumed(out: Path, base: Mapping[str, Any], ends: Sequence[int], monkeypatch: Any) -> Run:
    """Killed at each of these turns, and taken up from the folder each time."""
    said: list[str] = []
    for number, end in enumerate(ends):
        killed_at([end], monkeypatch)
        try:
            run(out, base, resume=said.append if number else None)
        except Killed:
            continue
        raise AssertionError(f"it was not killed at {end}")
    killed_at((), monkeypatch)
    found = run(out, base, resume=said.append)
    assert not said
    return found


def outcome(found: Run) -> dict[str, Any]:
    """All that a run yields but for its wall seconds: counts, epsilons, and the digests of trace and files."""
    return {name: value for name, value in found.receipt.items() if name != "wall_seconds"}
