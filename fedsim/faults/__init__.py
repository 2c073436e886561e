"""Faults: what goes wrong in a run, at times or at random, each by draws at addresses of its own."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.faults.corrupt import Corrupt
from fedsim.faults.degrade import Degrade
from fedsim.faults.delay import Delay
from fedsim.faults.duplicate import Duplicate
from fedsim.faults.every import NONE, Corrupting, Faults
from fedsim.faults.fault import Asked, Fault
from fedsim.faults.kill import Kill
from fedsim.faults.partition import Partition
from fedsim.faults.restart import Restart
from fedsim.faults.skew import Skew

FAULTS: dict[str, Callable[..., Fault]] = {
    "kill": Kill,
    "duplicate": Duplicate,
    "delay": Delay,
    "corrupt": Corrupt,
    "degrade": Degrade,
    "partition": Partition,
    "skew": Skew,
    "restart": Restart,
}

__all__ = ["FAULTS", "NONE", "Asked", "Corrupt", "Corrupting", "Degrade", "Delay", "Duplicate", "Fault", "Faults",
           "Kill", "Partition", "Restart", "Skew"]  # fmt: skip
