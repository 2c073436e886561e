"""Gradient codes: how workers share a gradient's work so that nobody has to wait for stragglers. Numpy alone."""

from __future__ import annotations

from fedsim.coding.code import Chunk, Code, Combination, MiniTask, Tasks
from fedsim.coding.gradient_code import BernoulliCode, GradientCode
from fedsim.coding.multiplexed import Multiplexed
from fedsim.coding.selective_repeat import SelectiveRepeat
from fedsim.coding.uncoded import Backup, Uncoded

CODES: dict[str, type[Code]] = {
    "uncoded": Uncoded,
    "backup": Backup,
    "gc": GradientCode,
    "bernoulli": BernoulliCode,
    "srsgc": SelectiveRepeat,
    "msgc": Multiplexed,
}

__all__ = [
    "CODES",
    "Backup",
    "BernoulliCode",
    "Chunk",
    "Code",
    "Combination",
    "GradientCode",
    "MiniTask",
    "Multiplexed",
    "SelectiveRepeat",
    "Tasks",
    "Uncoded",
]  # fmt: skip
