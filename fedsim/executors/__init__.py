"""Where and when local training is computed: null, inline, stacked, remote. What it yields is the trainer's affair."""

from __future__ import annotations

from fedsim.executors.inline import Inline
from fedsim.executors.null import Null
from fedsim.executors.remote import Remote
from fedsim.executors.stacked import Stacked

EXECUTORS = {"null": Null, "inline": Inline, "stacked": Stacked, "remote": Remote}

__all__ = ["EXECUTORS", "Inline", "Null", "Remote", "Stacked"]
