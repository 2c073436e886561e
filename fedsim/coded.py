"""A master and its workers in virtual time: coded rounds, stragglers who are given up, gradients that are decoded."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, ClassVar

from fedsim.cell import SERVER, failing
from fedsim.clock import CALENDAR, DEADLINE, FIRST_RANK, Cut, Failure, LinkDown, Moment, Process, Steps
from fedsim.coding import Code, Combination, MiniTask, Tasks
from fedsim.coding.jobdata import JobData
from fedsim.progress import Progress
from fedsim.simulation import Simulation, pass_time
from fedsim.stalling import OfMaster
from fedsim.trace import ARRIVE, LOST, START, TRAIN, UPLOAD, VERSION
from fedsim.work import CodedTask, Deferred

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.learner import Learner

SINGLE, DOUBLE = 4, 8
"""Bytes of a number."""


@dataclass
class CodedSimulation:
    """Runs one gradient code on a fleet. Its version is the number of jobs that were decoded.

    A round ends when everybody has answered, or 1 + mu times the fastest one's time after its beginning if the code can
    bear those who are late by then; if it cannot, as soon as it can, or when everybody has (`Code.wait_out`). Who has
    not answered by then is given up. A worker that fails starts its round anew after a while.
    """

    world: Simulation
    code: Code
    learner: Learner
    data: JobData
    flops: float
    """Floating-point operations of a gradient of one example."""
    size: int
    """How many parameters a model has."""
    progress: Progress
    version: int = field(default=0, init=False)
    began: int = field(default=0, init=False)
    """When the present round did."""
    late: bool = field(default=False, init=False)
    """Whether the time after which one is a straggler has passed in this round."""
    ended: Moment | None = field(default=None, init=False)
    """What the master waits for; None: the round is over."""
    limit: int | None = field(default=None, init=False)
    """When it does in this round; None: nobody has answered yet."""
    lingering: list[Moment] = field(default_factory=list, init=False)
    """Workers that wait for the limit to be known, as they attack by their time."""
    running: dict[int, Process] = field(default_factory=dict, init=False)
    done: list[int] = field(default_factory=list, init=False)
    """Who has nothing more to do in this round, in the order of finishing."""
    known: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set), init=False)
    """Of which jobs each worker has the model."""
    messages: defaultdict[int, dict[Combination, Deferred]] = field(
        default_factory=lambda: defaultdict(dict), init=False
    )
    """Of each job that is not decoded yet."""
    attempts: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int), init=False)
    placed: set[tuple[Combination, int]] = field(default_factory=set, init=False)
    """Whose data have gone to whom: combinations, and workers that have computed them."""
    copies: set[tuple[int, int]] = field(default_factory=set, init=False)
    """Chunks, and workers other than their owners that hold them."""
    changing: ClassVar[tuple[str, ...]] = ("world", "learner")

    def __post_init__(self) -> None:
        self.clock, self.trace, self.fleet = self.world.clock, self.world.trace, self.world.fleet
        self.progress.tallies = {"rounds": 0, "waited_out": 0, "straggled": 0, "copies": 0.0}

    @property
    def params(self) -> list[Tensor]:
        """All models, flat (P,) each."""
        return self.learner.params

    def run(self) -> None:
        """From time 0 until a limit is reached; raises what `pass_time` does."""
        self.clock.start(self.rounds(), CALENDAR)
        pass_time(self.clock, self.progress, self, lambda: f"{self.version} jobs are decoded")

    # The master -----------------------------------------------------------------------------------------------------

    def rounds(self) -> Steps:
        """One after another."""
        for round in count():
            yield from self.round(self.code.assign(round))
            for job in self.code.end():
                self.decode(job)
            if self.code.over:
                return

    def round(self, assigned: list[Tasks]) -> Steps:
        """From its beginning to its end; nothing if nobody has anything to do."""
        self.began, self.late, self.limit, self.done = self.clock.now, False, None, []
        self.ended = Moment(self.clock, DEADLINE)
        for worker, tasks in enumerate(assigned):
            if tasks:
                self.start(worker, tasks)
        if self.running:
            yield self.ended
            self.progress.tallies["rounds"] += 1
            self.progress.tallies["straggled"] += int(self.code.late.sum())
        for process in self.running.values():
            process.cut()
        self.running.clear()

    def start(self, worker: int, tasks: Tasks) -> None:
        """Give a worker something to do."""
        self.running[worker] = self.clock.start(self.job(worker, tasks), FIRST_RANK + worker)

    def heard(self, worker: int, tasks: Tasks, pending: list[Deferred]) -> None:
        """A worker has answered."""
        self.progress.arrived(staleness=0)
        for (job, combination), each in zip(tasks, pending, strict=True):
            each.arrived = True
            self.messages[job].setdefault(combination, each)
        self.code.arrived(worker, tasks)
        del self.running[worker]
        if not self.done and not self.late:
            patience = round(self.code.mu * (self.clock.now - self.began))
            self.clock.call(patience, DEADLINE, lambda round=self.code.round: self.expire(round))
            self.limit, waiting, self.lingering = self.clock.now + patience, self.lingering, []
            for moment in waiting:
                moment.happen()
        self.done.append(worker)
        if self.code.heard.all() or (self.late and self.code.wait_out == "pattern" and self.code.conforms()):
            self.finish()
        elif self.late:
            self.back_up()

    def expire(self, round: int) -> None:
        """Whoever has not answered is late; that means nothing if the round is over."""
        if round != self.code.round or self.ended is None:
            return
        self.late = True
        if self.code.conforms():
            self.finish()
        else:
            self.progress.tallies["waited_out"] += 1
            self.back_up()

    def finish(self) -> None:
        """End the round, when all that happens at this instant has happened."""
        if self.ended is not None:
            self.ended.happen()
            self.ended = None

    def back_up(self) -> None:
        """Let those who are done take over, if the code says so."""
        for worker in list(self.done):
            if tasks := self.code.backup(worker):
                self.done.remove(worker)
                self.start(worker, tasks)

    def decode(self, job: int) -> None:
        """Take a job's gradient."""
        messages = self.messages.pop(job)
        self.learner.step(job, lambda: [(messages[each], weight) for each, weight in self.code.decode(job).items()])
        self.code.forget(job)
        for known in self.known.values():
            known.discard(job)
        self.version += 1
        self.trace.add(self.clock.now, VERSION, -1, self.version)
        self.progress.stepped(self.version, self.clock.now)

    # A worker -------------------------------------------------------------------------------------------------------

    def job(self, worker: int, tasks: Tasks) -> Steps:
        """What a worker does in a round, until it has answered or is given up."""
        try:
            pending = yield from self.attempt(worker, tasks)
            while pending is None:
                yield self.fleet.failures.recovery
                pending = yield from self.attempt(worker, tasks)
        except Cut:
            return
        self.heard(worker, tasks, pending)

    def attempt(self, worker: int, tasks: Tasks) -> Steps:
        """The messages, or None if it has failed."""
        round = self.code.round
        self.trace.add(self.clock.now, START, worker, round)
        try:
            return (yield from self.work(worker, tasks))
        except Cut as cut:
            self.trace.add(self.clock.now, LOST, worker, round, cut.nbytes)
            self.progress.failed()
            if isinstance(cut, Failure | LinkDown):
                return None
            raise

    def work(self, worker: int, tasks: Tasks) -> Steps:
        """Download what models it lacks, compute, upload; the messages."""
        carrier, rank, round = self.world.carrier, FIRST_RANK + worker, self.code.round
        lacking = {task.job for task in tasks} - self.known[worker]
        nbytes = SINGLE * self.size * len(lacking)
        yield from carrier.carry(SERVER, worker, nbytes, rank, self.progress.downloaded)
        self.known[worker] |= lacking
        self.trace.add(self.clock.now, TRAIN, worker, round, nbytes)
        self.place(worker, tasks)
        pending, nbytes = yield from self.compute(worker, tasks)
        if timing := self.world.timing(worker, round):
            yield from timing.hold(OfMaster(self, worker, self.world.carrier.foresee(worker, SERVER, nbytes)))
        self.trace.add(self.clock.now, UPLOAD, worker, round)
        yield from self.upload(worker, nbytes)
        self.trace.add(self.clock.now, ARRIVE, worker, round, nbytes)
        return pending

    def compute(self, worker: int, tasks: Tasks) -> Steps:
        """Let the time of its gradients pass, which are promised if it will not fail; the messages and their bytes."""
        nbytes = self.size * sum(DOUBLE if task.combination.coded else SINGLE for task in tasks)
        examples = sum(int(self.data.counts(job)[list(each.chunks)].sum()) for job, each in tasks)
        duration = self.world.training_time(worker, self.code.round, self.code.round, examples, self.flops)
        fate = self.fleet.fate(worker, self.attempts[worker])
        self.attempts[worker] += 1
        if fate is not None:
            yield from failing(fate, duration, nbytes, lambda part: self.upload(worker, part))
        due = self.clock.now + duration + self.world.carrier.foresee(worker, SERVER, nbytes)
        pending = [self.world.promise(self.task(worker, each), due) for each in tasks]
        yield duration
        return pending, nbytes

    def upload(self, worker: int, nbytes: int) -> Steps:
        """From worker to master."""
        return self.world.carrier.carry(worker, SERVER, nbytes, FIRST_RANK + worker, self.progress.uploaded)

    def place(self, worker: int, tasks: Tasks) -> None:
        """Note whose data a worker holds."""
        for _, combination in tasks:
            if (combination, worker) not in self.placed:
                self.placed.add((combination, worker))
                new = {(chunk, worker) for chunk in combination.chunks if self.data.owners[chunk] != worker}
                self.progress.tallies["copies"] += sum(self.data.share(chunk) for chunk, _ in new - self.copies)
                self.copies |= new

    def task(self, worker: int, task: MiniTask) -> CodedTask:
        """In the words of an executor."""
        job, combination = task
        return CodedTask(worker, self.learner.start(job), job, 1, chunks=combination.chunks,
                         coefficients=combination.coefficients, coded=combination.coded)  # fmt: skip
