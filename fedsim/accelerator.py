"""Where a run's numbers are computed: on the CPU, or on a GPU. It is no part of the scenario, and moves no time."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn

from fedsim.errors import ScenarioError, nearest

CPU = torch.device("cpu")
KINDS = ("cpu", "cuda")


def device_of(name: str) -> torch.device:
    """`cpu`, `cuda`, or one of several GPUs as `cuda:1`. ScenarioError if there is no such device."""
    kind, _, number = name.partition(":")
    if kind not in KINDS or (number and not (kind == "cuda" and number.isdecimal())):
        raise ScenarioError(f"device: {name!r} is none; {nearest(kind, KINDS)}")
    if kind == "cpu":
        return CPU
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= count:
        found = f"torch {torch.__version__} finds {count or 'no'} GPU{'' if count == 1 else 's'} here"
        raise ScenarioError(f"device: {name} is not there: {found}; cpu always is")
    return torch.device("cuda", int(number or 0))


def card(device: torch.device) -> str:
    """What a device is called by its maker."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


@contextmanager
def exactly() -> Iterator[None]:
    """Convolutions as on the CPU: in whole float32, and by algorithms that a second run finds again."""
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
        yield
