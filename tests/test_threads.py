"""Threads that train: nothing that one writes to is another's, and they end with their run."""

from __future__ import annotations

import gc
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import SCENARIOS, scenario, write_text
from test_experiment import SMALL, digests
from torch import Tensor, nn

import fedsim
from fedsim import experiment
from fedsim.errors import ScenarioError
from fedsim.executors.threads import Threads
from fedsim.scenario import read
from fedsim.trace import Trace
from fedsim.work import LocalTask

WRITTEN_TO = (nn.Module, Tensor, np.ndarray, np.random.Generator, dict, list, set)
THREADS = {"remote": {"workers": 2}}


@pytest.fixture(scope="module")
def plays(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_text(folder)
    return folder


def held(start: object) -> dict[int, object]:
    """All that an object leads to, but for what code itself leads to: its module, its class."""
    found, todo = {}, [start]
    while todo:
        one = todo.pop()
        if id(one) in found or isinstance(one, (type, types.ModuleType)):
            continue
        found[id(one)] = one
        if isinstance(one, types.FunctionType):
            todo += [cell.cell_contents for cell in one.__closure__ or ()]
        else:
            todo += gc.get_referents(one)
    return found


def assembled(name: str, plays: Path) -> experiment.Experiment:
    """A small scenario, to be trained by threads; those that no thread may train are skipped."""
    try:
        made = experiment.assemble(read({**scenario(name), "executor": THREADS})[0], plays)
        made.simulation(Trace())
    except ScenarioError as refusal:
        pytest.skip(str(refusal))
    return made


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_that_is_written_to_has_two_owners(name, plays) -> None:
    made, cores = assembled(name, plays), torch.get_num_threads()
    executor: Any = made.simulation(Trace()).world.executor
    make: Any = executor.crew.own.twin
    mine, other = held(make.args[0]), held(make())
    torch.set_num_threads(cores)
    common = {key for key in mine.keys() & other.keys() if isinstance(mine[key], WRITTEN_TO)}
    assert common <= {id(made.trainer.x), id(made.trainer.y)}, [type(mine[key]) for key in common]
    assert any(isinstance(one, nn.Module) for one in mine.values())


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_small_scenario_is_the_same_to_the_bit(name, plays, tmp_path) -> None:
    assembled(name, plays)
    here, there = (
        fedsim.run({**scenario(name), "executor": each}, out=tmp_path, data=plays, picture=False)
        for each in ("inline", THREADS)
    )
    assert digests(here) == digests(there)


def test_threads_end_with_their_run_and_leave_others_their_cores() -> None:
    before, cores = set(threading.enumerate()), torch.get_num_threads()
    simulation: Any = experiment.assemble(read({**SMALL, "executor": THREADS})[0]).simulation(Trace())
    simulation.run()
    ours = set(threading.enumerate()) - before
    assert len(ours) == 2
    del simulation
    gc.collect()
    for thread in ours:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert torch.get_num_threads() == cores


def test_recurrent_layers_are_not_switched_over_under_other_threads(plays) -> None:
    recurrent = scenario("char_lstm")
    recurrent["local"] = {**recurrent["local"], "control": "ghosts"}
    threads, processes = ({**recurrent, "executor": {"remote": each}} for each in ({}, {"address": "local"}))
    with pytest.raises(ScenarioError, match=r"local: no executor elsewhere: for derivatives of recurrent layers"):
        experiment.assemble(read(threads)[0], plays)
    experiment.assemble(read(processes)[0], plays)


def test_who_is_broken_breaks_nobody_that_was_trained_beside() -> None:
    def train(tasks: Any) -> list[Any]:
        if any(task.client == 1 for task in tasks):
            raise ZeroDivisionError
        return [task.client for task in tasks]

    crew = Threads(lambda: train, most=3, workers=1)
    good, bad, other = (LocalTask(client, torch.zeros(1), 0, 1) for client in range(3))
    crew.launch([good, bad, other])
    assert len({id(flight) for flight, _ in crew.flights.values()}) == 1
    assert crew([good]) == [0]
    with pytest.raises(ZeroDivisionError):
        crew([bad])
    assert crew([other]) == [2]
    assert not crew.flights
