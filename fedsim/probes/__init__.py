"""What is looked at inside local trainings, step by step."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.probes.cleaning import Cleaning
from fedsim.probes.continual import Continual
from fedsim.probes.online import Online
from fedsim.probes.probe import Probe, Sightings

PROBES: dict[str, Callable[..., Probe]] = {"continual": Continual, "online": Online, "cleaning": Cleaning}

__all__ = ["PROBES", "Cleaning", "Continual", "Online", "Probe", "Sightings"]
