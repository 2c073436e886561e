"""Run a batch of tasks, and if it breaks say whose task it was and when it was needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite

from fedsim.errors import TrainingFailed
from fedsim.units import written_duration
from fedsim.work import Deferred, Train


def compute(train: Train, company: Sequence[Deferred]) -> list[Deferred]:
    """Fill in the values of all in `company`, and of all that they go on from; returns whose.

    In waves, each one call of `train`: a client's training waits for what its last one leaves, and for nothing else.

    Raises:
        TrainingFailed: with the client, the virtual time that needed it and the cause.
    """
    waiting = computed = _with_forerunners(company)
    while waiting:
        _wave(train, [deferred for deferred in waiting if ready(deferred)])
        waiting = [deferred for deferred in waiting if deferred.value is None]
    return computed


def _with_forerunners(company: Sequence[Deferred]) -> list[Deferred]:
    """Those in `company` and all, not run yet, that they go on from."""
    found = list(company)
    known = set(map(id, found))
    for deferred in found:  # grows on the way
        maker = deferred.after and deferred.after.maker
        if maker and id(maker) not in known:
            known.add(id(maker))
            found.append(maker)
    return found


def ready(deferred: Deferred) -> bool:
    """Whether what a task goes on from is there; then the task has it."""
    if deferred.after is None or deferred.after.maker is not None:
        return deferred.after is None
    if deferred.task.kept is not deferred.after.state:
        deferred.task = replace(deferred.task, kept=deferred.after.state)
    return True


def _wave(train: Train, company: Sequence[Deferred]) -> None:
    try:
        results = train([deferred.task for deferred in company])
    except Exception as cause:
        raise _blame(train, company, cause) from cause
    for deferred, result in zip(company, results, strict=True):
        if not isfinite(result.loss):
            raise _failure([deferred], f"its loss is {result.loss}: it diverged (lower the learning rate?)")
        deferred.value = result
        if (kept := deferred.kept) is not None:
            kept.maker, kept.state = None, result.kept


def _blame(train: Train, company: Sequence[Deferred], cause: Exception) -> TrainingFailed:
    """The first who fails alone too; a fault that needs company is everybody's."""
    for deferred in company:
        try:
            train([deferred.task])
        except Exception as alone:
            return _failure([deferred], f"{type(alone).__name__}: {alone}")
    return _failure(company, f"{type(cause).__name__}: {cause}")


def _failure(company: Sequence[Deferred], cause: str) -> TrainingFailed:
    who = ", ".join(str(deferred.task.client) for deferred in company)
    first = company[0]
    return TrainingFailed(
        f"local training of client {who} (its training number {first.task.ordinal}), "
        f"due at virtual time {written_duration(first.due)}, failed: {cause}"
    )
