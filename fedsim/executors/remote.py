"""Local training on a Ray cluster: on all cores of this machine, or on many machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, cast
from weakref import WeakSet, finalize

from pydantic import Field

from fedsim.cluster import LOCAL, connect, cores_of, need_ray
from fedsim.executors.computing import Train, compute, ready
from fedsim.executors.stacked import Stacked
from fedsim.units import Size
from fedsim.work import Deferred, LocalResult, LocalTask

CALLS = 4
"""So many stacks for each worker at a time: what it trains, what waits for it, and what waits to be read in turn."""

RETRIES = 5
"""So often a call is made again elsewhere if its worker or its whole machine is lost."""


class Remote(Stacked):
    """As `stacked`, but each stack is trained by whatever worker of a Ray cluster is free, while others are read.

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

    def compute(self, wanted: Deferred) -> None:
        """Wait for this one. It and those that are due next are under way by then, as many as the workers can take."""
        self.batch = CALLS * len(self.crew.workers) * self.crew.most
        self.pending.pop(wanted, None)
        if not self.crew.flying(wanted.task) or len(self.crew.flights) <= self.batch - self.crew.most:
            self.launch([wanted, *self.company()])
        for each in (computed := compute(self.train, [wanted])):
            self.pending.pop(each, None)
        self.trained += len(computed)

    def launch(self, company: Sequence[Deferred]) -> None:
        """Have those trained that can be, and are not yet; who is forgotten meanwhile is so here too."""
        grounded = [each for each in company if ready(each) and not self.crew.flying(each.task)]
        self.crew.launch([each.task for each in grounded])
        for each in grounded:
            finalize(each, self.crew.flights.pop, id(each.task), None).atexit = False


class Flight:
    """Tasks that a worker trains together."""

    def __init__(self, crew: Crew, tasks: Sequence[LocalTask]):
        self.crew, self.tasks = crew, tasks
        self.start()

    def start(self) -> None:
        """Where least is to be done."""
        self.worker = min(self.crew.workers, key=lambda worker: len(worker.flights))
        self.process = self.worker.process
        self.worker.flights.add(self)
        self.answer = self.crew.call(self.worker, self.tasks)

    @cached_property
    def landed(self) -> list[tuple[Any, LocalResult]]:
        """What has come of them, waited for; raises what training raises."""
        for _ in range(RETRIES):
            try:
                return self.wait()
            except self.crew.ray.exceptions.RayActorError:
                self.worker.replace(self.process)
                self.start()
        return self.wait()

    def wait(self) -> list[tuple[Any, LocalResult]]:
        """The answer of the worker that has them; RayActorError if it is lost."""
        try:
            return self.crew.ray.get(self.answer)
        except self.crew.ray.exceptions.RayTaskError as error:
            raise error.cause from None
        finally:
            self.worker.flights.discard(self)


class Crew:
    """Trains on a cluster, which is not asked for before there is something to train."""

    def __init__(self, train: Train, most: int, address: str, wanted: int | None):
        """`most` tasks go to a worker at a time."""
        self.train, self.most, self.address, self.wanted = train, most, address, wanted
        self.vectors: dict[int, Any] = {}
        """Where on the cluster those that tasks start from are, as long as they are here too; by identity."""
        self.flights: dict[int, tuple[Flight, int]] = {}
        """By a task's identity: where it is trained, and in which place."""

    @cached_property
    def ray(self) -> Any:
        """The module, connected."""
        return connect(self.address, self.wanted)

    @cached_property
    def workers(self) -> list[Worker]:
        """All who train at a time."""
        return workers_of(self.ray)

    @cached_property
    def learner(self) -> Any:
        """Where on the cluster that is what trains: model, data and rules, which do not change while a run goes on."""
        return self.ray.put(self.train)

    def flying(self, task: LocalTask) -> bool:
        """Whether it is under way, or has landed and was not asked for."""
        return id(task) in self.flights

    def launch(self, tasks: Sequence[LocalTask]) -> None:
        """Have them trained, and wait for nothing."""
        size = max(1, min(self.most, -(-len(tasks) // len(self.workers))))
        for start in range(0, len(tasks), size):
            flight = Flight(self, tasks[start : start + size])
            self.flights |= {id(task): (flight, place) for place, task in enumerate(flight.tasks)}

    def __call__(self, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """Their results, in the same order; raises what training raises."""
        self.launch([task for task in tasks if not self.flying(task)])
        return [self.land(task) for task in tasks]

    def land(self, task: LocalTask) -> LocalResult:
        """What has come of a task that is under way; alone once more if its company may be what broke it."""
        flight, place = self.flights.pop(id(task))
        try:
            like, result = flight.landed[place]
        except Exception:
            if len(flight.tasks) == 1:
                raise
            [(like, result)] = Flight(self, [task]).landed
        return replace(result, delta=like.new_tensor(result.delta))

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
