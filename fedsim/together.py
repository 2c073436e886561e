"""Experiments that share their timeline are run into folders of their own, in one go."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import cast

from fedsim_kernels.language import noted

from fedsim.abreast import pass_abreast
from fedsim.accelerator import exactly
from fedsim.conduct import write_yield
from fedsim.experiment import Experiment
from fedsim.folder import RunFolder
from fedsim.progress import Progress
from fedsim.results import load
from fedsim.server import ServerSimulation
from fedsim.trace import Trace
from fedsim.traffic import Federation, loaded

TRACE = "trace.parquet"


def conduct_together(experiments: Sequence[Experiment], paths: Sequence[Path]) -> list[int]:
    """What `conduct` does, for all at once; returns the numbers of those who have to be run another time.

    All have the same `timeline`. What comes out is what each alone would yield, to the bit; wall time is that of all.
    While they go on, their trace can be read in the first folder. Who fails has its failure in its folder.
    """
    began = monotonic()
    folders = [RunFolder(path, one.arm.resolved) for one, path in zip(experiments, paths, strict=True)]
    trace = Trace(paths[0] / TRACE)

    def record(folder: RunFolder, progress: Progress) -> None:
        folder.refresh(progress)
        trace.refresh()

    simulations = [
        cast("ServerSimulation", one.simulation(trace, record=lambda progress, folder=folder: record(folder, progress)))
        for one, folder in zip(experiments, folders, strict=True)
    ]
    with exactly(), noted() as kernels:
        lanes = pass_abreast(simulations)
    trace.flush()
    links = loaded(experiments[0].graph, load(paths[0]).trace, Federation.of(experiments[0].arm.resolved))
    for lane, one, folder in zip(lanes, experiments, folders, strict=True):
        if lane.apart:
            continue
        if folder is not folders[0]:
            shutil.copytree(paths[0] / TRACE, folder.path / TRACE)
        folder.tables(lane.progress)
        folder.links(links)
        if lane.error is None:
            write_yield(folder, lane.simulation, one, monotonic() - began, kernels)
        else:
            folder.failure(lane.error)
    return [number for number, lane in enumerate(lanes) if lane.apart]
