"""Which runs share their timeline, so that time need pass only once for all of them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from fedsim.folder import sha256
from fedsim.server import ServerSimulation
from fedsim.trace import Trace

if TYPE_CHECKING:
    from fedsim.experiment import Experiment

COUNTED = ("local", "model", "wire", "aggregator", "defence", "learning_seed", "delta", "accountant")
"""Keys that reach time through counts and sizes, which are compared, and a server's decisions, which are compared as
it makes them. All others have to be the same."""


def timeline(experiment: Experiment) -> str | None:
    """A name that two runs share if the same time passes for both, as far as nobody's decisions differ.

    None where time may depend on what is learnt, or where there is no server that clients talk to themselves.
    """
    keys = experiment.arm.keys
    reads = experiment.select(0).reads_numbers or keys.until.accuracy is not None
    if reads or experiment.timing_only or experiment.trainer.judged_apart:
        return None
    made = experiment.simulation(Trace())
    if type(made) is not ServerSimulation:
        return None
    said = {key: value for key, value in experiment.arm.resolved.items() if key not in COUNTED}
    counts = asdict(replace(made.work, share=None))
    facts = [said, counts, made.keeps, made.aggregator.vectors, experiment.arm.resolved["local"].get("shrink")]
    return sha256(json.dumps(facts, sort_keys=True).encode())
