"""Local training on a Ray cluster: on all cores of this machine, or on many machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, cast
from weakref import finalize

from pydantic import Field

from fedsim.cluster import LOCAL, connect, need_ray, workers_of
from fedsim.executors.computing import Train
from fedsim.executors.stacked import Stacked
from fedsim.units import Size
from fedsim.work import Deferred, LocalResult, LocalTask

CALLS = 2
"""So many for each worker at a time, so that few wait for the slowest."""

RETRIES = 5
"""So often a call is made again elsewhere if its worker or its whole machine is lost."""


class Remote(Stacked):
    """As `stacked`, but each stack is trained by whatever worker of a Ray cluster is free.

    A result is a function of its task, so it is the same wherever it is computed, and again if a machine is lost.
    A vector that many start from travels once to each machine, and is dropped when nobody starts from it any more.
    """

    def __init__(
        self,
        train: Train,
        worth: int,
        row_bytes: int,
        synchronous: bool,
        budget: Annotated[Size, Field(gt=0)] = 64_000_000,
        ahead: bool | None = None,
        address: str = LOCAL,
        workers: Annotated[int, Field(ge=1)] | None = None,
    ):
        """`address` of a cluster that is there, or `local`: one that this process starts, with so many `workers`."""
        need_ray()
        super().__init__(train, worth, row_bytes, synchronous, budget, ahead)
        self.crew = self.train = Crew(train, self.batch, address, workers)

    def company(self) -> list[Deferred]:
        """Enough for all workers."""
        self.batch = CALLS * self.crew.workers * self.crew.most
        return super().company()


class Crew:
    """Trains on a cluster, which is not asked for before there is something to train."""

    def __init__(self, train: Train, most: int, address: str, wanted: int | None):
        """`most` tasks go to a worker at a time."""
        self.train, self.most, self.address, self.wanted = train, most, address, wanted
        self.vectors: dict[int, Any] = {}
        """Where on the cluster those that tasks start from are, as long as they are here too; by identity."""

    @cached_property
    def ray(self) -> Any:
        """The module, connected."""
        return connect(self.address, self.wanted)

    @cached_property
    def workers(self) -> int:
        """How many train at a time."""
        return workers_of(self.ray)

    @cached_property
    def learner(self) -> Any:
        """Where on the cluster that is what trains: model, data and rules, which do not change while a run goes on."""
        return self.ray.put(self.train)

    def __call__(self, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """Their results, in the same order; raises what training raises."""
        size = max(1, min(self.most, -(-len(tasks) // self.workers)))
        calls = [self.call(tasks[start : start + size]) for start in range(0, len(tasks), size)]
        try:
            found = [result for each in self.ray.get(calls) for result in each]
        except self.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        return [replace(result, delta=like.new_tensor(result.delta)) for like, result in found]

    def call(self, tasks: Sequence[LocalTask]) -> Any:
        """Have them trained; where the results will be."""
        vectors = {id(one): one for task in tasks for one in (task.params, task.sent) if one is not None}
        places = {name: place for place, name in enumerate(vectors)}
        starts = [(places[id(task.params)], places.get(id(task.sent))) for task in tasks]
        light = [replace(task, params=cast("Any", None), sent=None) for task in tasks]
        train = self.ray.remote(train_there).options(num_cpus=1, max_retries=RETRIES)
        like = tasks[0].params[:0].clone()  # of a view the whole would travel
        return train.remote([self.learner], like, light, starts, *map(self.put, vectors.values()))

    def put(self, vector: Any) -> Any:
        """Where on the cluster a vector is, put there if it is not yet."""
        name = id(vector)
        if name not in self.vectors:
            self.vectors[name] = self.ray.put(vector.cpu().numpy())
            finalize(vector, self.vectors.pop, name, None).atexit = False
        return self.vectors[name]


LEARNERS: dict[Any, Train] = {}
"""What a worker has trained with last."""


def train_there(
    learner: Sequence[Any], like: Any, tasks: Sequence[LocalTask], starts: Sequence[tuple[int, int | None]],
    *vectors: Any,
) -> list[tuple[Any, LocalResult]]:  # fmt: skip
    """On a worker: train tasks that start from vectors at these places; `like`, and what comes beside each result, are
    tensors of their kind.

    Vectors and changes travel as NumPy's arrays, whose memory Ray shares, where tensors are copied byte by byte.
    """
    import ray

    [where] = learner
    if where not in LEARNERS:
        LEARNERS.clear()
        LEARNERS[where] = cast("Train", ray.get(where))
    here = [like.new_tensor(vector) for vector in vectors]
    whole = [
        replace(task, params=here[params], sent=None if sent is None else here[sent])
        for task, (params, sent) in zip(tasks, starts, strict=True)
    ]
    results = LEARNERS[where](whole)
    return [(one.delta[:0].clone(), replace(one, delta=cast("Any", one.delta.cpu().numpy()))) for one in results]
