"""What a finished run says of itself."""

from __future__ import annotations

import platform
from collections.abc import Collection
from importlib.metadata import version
from typing import Any

from fedsim.accelerator import card
from fedsim.disclosure import disclosed, disclosed_by_peers
from fedsim.experiment import Experiment
from fedsim.optimizers.memory import state_bytes
from fedsim.repeating import Federated
from fedsim.server import ServerSimulation
from fedsim.swarm import Swarm


def receipt(simulation: Federated, experiment: Experiment, seconds: float, kernels: Collection[str]) -> dict[str, Any]:
    """Versions, counts, the digest of the trace, `kernels` that ran, what was disclosed; `seconds` of the wall."""
    progress, trace, trainer = simulation.progress, simulation.trace, experiment.trainer
    told: dict[str, Any] = {}
    if isinstance(simulation, ServerSimulation):
        told = simulation.facts() | disclosed(experiment, simulation)
    elif isinstance(simulation, Swarm):
        told = disclosed_by_peers(experiment, simulation)
    return {
        "scenario": experiment.arm.digest,
        "seed": experiment.arm.keys.seed,
        "device": {"kind": experiment.params.device.type, "card": card(experiment.params.device)},
        "kernels": sorted(kernels),
        "versions": {"python": platform.python_version(), **{
            name: version(name) for name in ("fedsim-lab", "numpy", "simpy", "torch")}},
        "counts": {"versions": progress.version, "updates": progress.updates, "lost": progress.lost,
                   "trained": simulation.world.executor.trained, "bytes_down": progress.down, "bytes_up": progress.up,
                   **progress.tallies},
        "trace": {"rows": trace.count, "sha256": trace.digest()},
        "optimizer_state_bytes": state_bytes(trainer.optimizer, trainer.layout, trainer.stackable),
        **told,
        "wall_seconds": round(seconds, 3),
    }  # fmt: skip
