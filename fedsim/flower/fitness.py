"""Which scenarios devices can carry out: what needs the simulator's knowledge of everybody is refused in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedsim.errors import ScenarioError
from fedsim.experiment import Experiment, assemble
from fedsim.scenario import read


def deployable(scenario: Path, overrides: Sequence[str] = (), data: Path | None = None) -> Experiment:
    """What both halves of an app are made of. ScenarioError if that is not one run, or nothing for devices."""
    arms = read(scenario, overrides)
    if len(arms) > 1:
        raise ScenarioError(f"{scenario}: compare: devices carry out one run, and this is {len(arms)}")
    experiment = assemble(arms[0], data)
    refuse_undeployable(experiment)
    return experiment


def refuse_undeployable(experiment: Experiment) -> None:
    """ScenarioError with the first key that has no meaning on devices, and why."""
    keys, place = experiment.arm.keys, experiment.arm.place
    wire = keys.wire
    faults: dict[tuple[str, ...], tuple[bool, str]] = {
        ("peers",): (keys.peers is not None, "devices talk to a server, not to each other"),
        ("coding",): (keys.coding is not None, "a code's master needs gradients of chunks, not clients' changes"),
        ("edges",): (keys.edges is not None, "devices have one server, and no edges"),
        ("adversaries",): (keys.adversaries is not None, "devices attack by themselves, if they do"),
        ("faults",): (keys.faults is not None, "what goes wrong on devices does so by itself"),
        ("eavesdrop",): (keys.eavesdrop is not None, "who listens to devices does not ask a scenario"),
        ("wire", "secure"): (wire is not None and wire.secure is not None,
                             "the exchange of keys is simulated, and does not travel"),
        ("wire", "up"): (wire is not None and wire.up == "scores", "scores do not travel, changes do"),
        ("local", "probe"): (keys.local.probe is not None, "a probe's tables stay on the devices"),
        ("local", "personal"): (keys.local.personal is not None, "models of clients' own stay on their devices, where "
                                "this server cannot judge them"),
        ("local", "objective"): (experiment.trainer.judged_apart, "statistics of clients' own stay on their devices, "
                                 "where this server cannot judge the models"),
        ("executor",): (experiment.timing_only, "devices train; this one does not"),
    }  # fmt: skip
    for path, (true, why) in faults.items():
        if true:
            raise ScenarioError(f"{place(path)}: {'.'.join(path)}: {why}")
