"""A crew of processes on a Ray cluster: on many machines, or of one's own on this one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast
from weakref import WeakSet, finalize

from fedsim.cluster import connect, cores_of, need_ray
from fedsim.executors.crew import Crew
from fedsim.work import LocalResult, LocalTask, Train

RETRIES = 5
"""So often a call is made again elsewhere if its worker or its whole machine is lost."""


class Machines(Crew):
    """Trains on a cluster, which is not asked for before there is something to train."""

    def __init__(self, train: Train, most: int, address: str, wanted: int | None):
        """So many workers are `wanted` of a cluster of one's own; of another all cores are taken."""
        need_ray()
        super().__init__(most)
        self.train, self.address, self.wanted = train, address, wanted
        self.vectors: dict[int, Any] = {}
        """Where on the cluster those that tasks start from are, as long as they are here too; by identity."""

    @cached_property
    def ray(self) -> Any:
        """The module, connected."""
        return connect(self.address, self.wanted)

    @cached_property
    def workers(self) -> list[Worker]:
        """All who train at a time."""
        return workers_of(self.ray)

    @property
    def size(self) -> int:
        """See `Crew`."""
        return len(self.workers)

    @cached_property
    def learner(self) -> Any:
        """Where on the cluster that is what trains: model, data and rules, which do not change while a run goes on."""
        return self.ray.put(self.train)

    def send(self, tasks: Sequence[LocalTask]) -> Flight:
        """See `Crew`."""
        return Flight(self, tasks)

    def call(self, worker: Worker, tasks: Sequence[LocalTask]) -> Any:
        """Have a worker train them; where the results will be."""
        vectors = {id(one): one for task in tasks for one in (task.params, task.sent) if one is not None}
        places = {name: place for place, name in enumerate(vectors)}
        starts = [(places[id(task.params)], places.get(id(task.sent))) for task in tasks]
        light = [replace(task, params=cast("Any", None), sent=None) for task in tasks]
        like = tasks[0].params[:0].clone()  # of a view the whole would travel
        return worker.process.train.remote([self.learner], like, light, starts, *map(self.put, vectors.values()))

    def put(self, vector: Any) -> Any:
        """Where on the cluster a vector is, put there if it is not yet."""
        name = id(vector)
        if name not in self.vectors:
            self.vectors[name] = self.ray.put(vector.cpu().numpy())
            finalize(vector, self.vectors.pop, name, None).atexit = False
        return self.vectors[name]


class Flight:
    """See `crew.Flight`."""

    def __init__(self, crew: Machines, tasks: Sequence[LocalTask]):
        self.crew, self.tasks = crew, tasks
        self.start()

    def start(self) -> None:
        """Where least is to be done."""
        self.worker = min(self.crew.workers, key=lambda worker: len(worker.flights))
        self.process = self.worker.process
        self.worker.flights.add(self)
        self.answer = self.crew.call(self.worker, self.tasks)

    @cached_property
    def results(self) -> list[LocalResult]:
        """Waited for, from another worker if this one is lost."""
        for _ in range(RETRIES):
            try:
                return self.wait()
            except self.crew.ray.exceptions.RayActorError:
                self.worker.replace(self.process)
                self.start()
        return self.wait()

    def landed(self) -> list[LocalResult]:
        """See `crew.Flight`."""
        return self.results

    def wait(self) -> list[LocalResult]:
        """The answer of the worker that has them; RayActorError if it is lost."""
        try:
            answers = self.crew.ray.get(self.answer)
        except self.crew.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        finally:
            self.worker.flights.discard(self)
        return [replace(result, delta=like.new_tensor(result.delta)) for like, result in answers]


@dataclass(eq=False)
class Worker:
    """A process on the cluster."""

    hire: Callable[[], Any]
    process: Any = None
    flights: WeakSet[Flight] = field(default_factory=WeakSet)
    """What it has to do."""

    def __post_init__(self) -> None:
        self.replace(None)

    def replace(self, lost: Any) -> None:
        """By another, wherever there is room, if it is still the one that is lost (None: there was none yet)."""
        if self.process is lost:
            self.process = self.hire()


WORKERS: dict[str, list[Worker]] = {}
"""Of the cluster that this process is connected to, by the connection: runs take turns with them."""


def workers_of(ray: Any) -> list[Worker]:
    """As many as there are cores. They hold none, so that whole runs find room beside them."""
    connection = ray.get_runtime_context().get_job_id()
    if connection not in WORKERS:
        WORKERS.clear()
        kind = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(Training)
        WORKERS[connection] = [Worker(kind.remote) for _ in range(cores_of(ray))]
    return WORKERS[connection]


class Training:
    """What a worker does, with the one thread that Ray gives to whom holds no cores."""

    def __init__(self) -> None:
        self.learners: dict[Any, Train] = {}
        """What it has trained with last."""

    def train(
        self, learner: Sequence[Any], like: Any, tasks: Sequence[LocalTask], starts: Sequence[tuple[int, int | None]],
        *vectors: Any,
    ) -> list[tuple[Any, LocalResult]]:  # fmt: skip
        """Train tasks that start from vectors at these places; `like`, and what comes beside each result, are tensors
        of their kind.

        Vectors and changes travel as NumPy's arrays, whose memory Ray shares, where tensors are copied byte by byte.
        """
        import ray

        [where] = learner
        if where not in self.learners:
            self.learners = {where: cast("Train", ray.get(where))}
        here = [like.new_tensor(vector) for vector in vectors]
        whole = [
            replace(task, params=here[params], sent=None if sent is None else here[sent])
            for task, (params, sent) in zip(tasks, starts, strict=True)
        ]
        results = self.learners[where](whole)
        return [(one.delta[:0].clone(), replace(one, delta=cast("Any", one.delta.cpu().numpy()))) for one in results]
