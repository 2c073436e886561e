"""A Ray cluster: one that a process has for itself and that listens on this machine alone, or one that is there."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from fedsim.errors import ExtraMissing, ScenarioError

LOCAL = "local"
"""The address of a cluster of one's own."""

PRIVATE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too it makes all of Ray's servers listen on loopback
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or it warns that it will be so
}
"""What Ray reads when it is imported."""

LOOPBACK = "127.0.0.1"
PATIENCE = 10.0
"""Seconds for an answer."""


def need_ray() -> None:
    """ExtraMissing if Ray is not installed."""
    if find_spec("ray") is None:
        raise ExtraMissing("Ray is not installed: pip install 'fedsim-lab[ray]'")


def connect(address: str = LOCAL, workers: int | None = None) -> Any:
    """The module `ray`, connected; a process stays with the cluster that it has connected to first.

    One's own cluster has so many `workers` (None: as many as cores), and stops with the process, whose end takes its
    files away too; its workers find the modules that the process finds. Machines of another one need to have them.

    Raises:
        ExtraMissing: if Ray is not installed.
        ScenarioError: if nobody answers at the address.
    """
    need_ray()
    if address == LOCAL:
        os.environ.update(PRIVATE)
    else:
        knock(address)
    import ray

    if ray.is_initialized():
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == LOCAL:
        folder = tempfile.mkdtemp(prefix="fedsim-ray-")
        atexit.register(_stop, ray, folder)
        with our_modules():
            ray.init(address=LOCAL, num_cpus=workers, include_dashboard=False, _node_ip_address=LOOPBACK,
                     _temp_dir=folder, **quiet)  # fmt: skip
    else:
        ray.init(address=address, **quiet)
    return ray


def knock(address: str) -> None:
    """ScenarioError if nobody answers there; Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ScenarioError(
            f"no Ray cluster answers at {address!r} ({error}); expected {LOCAL}, or HOST:PORT of a cluster's head"
        ) from None


@contextmanager
def our_modules() -> Iterator[None]:
    """What is started meanwhile finds the same modules as this process, a user's own among them."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        os.environ.update({} if before is None else {"PYTHONPATH": before})


def _stop(ray: Any, folder: str) -> None:
    """Before the process ends."""
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def cores_of(ray: Any) -> int:
    """How many tasks of one core each the cluster does at a time."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))
