"""The stability gap: what old tasks go through right after a new one begins, step by step."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from figure import Figure, above, counted, deviation
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

import fedsim
from fedsim import continual
from fedsim.style import PAGE

FIGURE = Figure(
    "The stability gap: continual evaluation of experience replay, step by step",
    "Setting: ours; the paper (De Lange et al., ICLR 2023) learns split MNIST and others on one machine. Digits in "
    "five tasks of two classes, one head; FedAvg, 5 clients, an MLP 64-100-10, batches of 20, 150 local steps a "
    "task: in 10 rounds of 15, or as one training. Replay: 20 examples of each old task with each client, 0.3 for "
    "the new batch (the paper's weight). A probe judges 60 test examples of each task at every step; minima are "
    "over all of them. Unlike labels: no tasks, each client has about two classes, FedAvg of 15 steps. WF10 is the "
    "largest fall within 10 looks. Bounds after a pilot of two other seeds. Full: ten seeds for five.",
)
SEEDS = FIGURE.seeds(5, full=10)
TASKS, STEPS, ROUNDS = 5, 150, 10
REPLAY = "local.objective={replay: {memory: 20}}"
LONG = ("local.steps=150", "until.versions=5", "data.split_digits.trainings=1")
ARMS: dict[str, tuple[str, ...]] = {
    "replay": (REPLAY,),
    "fine-tuning": (),
    "replay, one training a task": (REPLAY, *LONG),
    "unlike labels": ("data={digits: {partition: {shards: {per_client: 2}}}}", "until.versions=20",
                      "evaluate={every: 2 s}"),
}  # fmt: skip
Runs = dict[tuple[str, int], fedsim.Run]
METRICS = ("ACC", "min-ACC", "WC-ACC", "WF10", "FORG")


def main() -> None:
    """Run, judge, draw."""
    arms = {(name, seed): (*said, f"seed={seed}") for name, said in ARMS.items() for seed in SEEDS}
    runs = FIGURE.runs("stability_gap.yaml", arms)
    judge(runs)
    FIGURE.end(lambda: draw(runs))


@dataclass(frozen=True)
class Curve:
    """What the probe saw of a client, its trainings in a row: by look, and by task or class."""

    ordinal: np.ndarray
    step: np.ndarray
    accuracy: np.ndarray

    @property
    def taken(self) -> np.ndarray:
        """How many steps the client has taken in all."""
        return self.ordinal * self.step.max() + self.step


def curves(run: fedsim.Run) -> list[Curve]:
    """Of all clients."""
    assert run.probes is not None
    rows = run.probes.sort_values(["client", "ordinal", "step"])
    names = [name for name in rows if str(name).startswith(("task_", "class_"))]
    return [Curve(own.ordinal.to_numpy(), own.step.to_numpy(), own[names].to_numpy())
            for _, own in rows.groupby("client")]  # fmt: skip


def metrics(run: fedsim.Run, steps: bool = True) -> np.ndarray:
    """`METRICS`, means over clients; of all looks, or of the rounds' models alone."""
    found = []
    for curve in curves(run):
        seen = (curve.step == 0) | steps
        tasks, values = ((curve.taken - (curve.step > 0)) // STEPS)[seen], curve.accuracy[seen]
        last = [int(np.flatnonzero(tasks == task)[-1]) for task in range(TASKS)]
        found.append([continual.average(values), continual.minimum(values, last), continual.worst_case(values, last),
                      continual.fall(values, 10), continual.forgetting(values, last)])  # fmt: skip
    return np.mean(found, 0)


def dips(run: fedsim.Run) -> tuple[float, float]:
    """How far old tasks fall in the 30 steps after a switch, and by how much of it they come back until the next.

    Means over clients, old tasks and switches.
    """
    found = []
    for curve in curves(run):
        for switch in range(1, TASKS):
            old = curve.accuracy[curve.ordinal == switch, :switch]
            lowest = old[:31].min(0)
            found += [*zip(old[0] - lowest, old[-1] - lowest, strict=True)]
    fall, back = np.mean(found, 0)
    return float(fall), float(back)


def within_rounds(run: fedsim.Run) -> np.ndarray:
    """The mean accuracy over all classes by round and step, a mean over clients."""
    each = [curve.accuracy.mean(1).reshape(curve.ordinal.max() + 1, -1) for curve in curves(run)]
    return np.mean(each, 0)


def judge(runs: Runs) -> None:
    """Bounds as in the setting."""
    replay, plain = (np.array([metrics(runs[name, seed]) for seed in SEEDS]) for name in ("replay", "fine-tuning"))
    long = "replay, one training a task"
    rounds = np.array([metrics(runs["replay", seed], steps=False) for seed in SEEDS])
    FIGURE.judge(
        above("replay over fine-tuning: ACC", (replay - plain)[:, 0].tolist(), 0.6),
        above("fine-tuning forgets: FORG", plain[:, 4].tolist(), 0.9),
        above("replay, one training a task: ACC over min-ACC",
              [-float(np.subtract(*metrics(runs[long, seed])[[1, 0]])) for seed in SEEDS], 0.03),
        above("its old tasks fall within 30 steps of a switch by",
              [dips(runs[long, seed])[0] for seed in SEEDS], 0.03),
        above("and come back until the next by", [dips(runs[long, seed])[1] for seed in SEEDS], 0.02),
        above("replay in rounds: ACC over min-ACC", (replay[:, 0] - replay[:, 1]).tolist(), 0.03),
        above("its min-ACC by rounds is above that by steps by", (rounds - replay)[:, 1].tolist(), 0.01),
    )  # fmt: skip
    rounds_within = [within_rounds(runs["unlike labels", seed])[10:].mean(0) for seed in SEEDS]
    drops = [float(mean[0] - mean[-1]) for mean in rounds_within]
    FIGURE.judge(above("unlike labels: clients lose within a round, of what they got", drops, 0.2))


def draw(runs: Runs) -> Drawing:
    """Old tasks by steps; metrics; a round from within."""
    drawing, grid = plt.subplots(2, 2, figsize=(PAGE, 4.9))
    for panel, name in zip(grid.flat, ("replay, one training a task", "replay"), strict=False):
        by_steps(panel, [curve for seed in SEEDS for curve in curves(runs[name, seed])])
        panel.set(title=f"{name}: mean of {counted(len(SEEDS))} and 5 clients", ylim=(0.7, 1.01))
    for task in range(TASKS):
        mean = np.mean([of_servers(runs["replay", seed], task) for seed in SEEDS], 0)
        taken = STEPS // ROUNDS * np.arange(len(mean))
        grid[0, 1].plot(taken[task * ROUNDS :], mean[task * ROUNDS :], "o", color=f"C{task}", markersize=2.5)
    grid[0, 0].legend(title="on task", ncols=5, loc="lower left")
    [mark] = grid[0, 1].plot([], [], "o", color="grey", markersize=2.5)
    grid[0, 1].legend([mark], ["the server's models, on all test examples"], loc="lower left")
    bars(grid[1, 0], runs)
    inside(grid[1, 1], runs)
    return drawing


def by_steps(panel: Axes, every: list[Curve]) -> None:
    """Accuracy on each task from when it begins."""
    mean, taken = np.mean([curve.accuracy for curve in every], 0), every[0].taken
    for task in range(TASKS):
        begun = taken >= task * STEPS
        panel.plot(taken[begun], mean[begun, task], color=f"C{task}", linewidth=0.9, label=f"{task}")
        panel.axvline(task * STEPS, color="grey", linewidth=0.5)
    panel.set(xlabel="local steps of each client", ylabel="accuracy")


def of_servers(run: fedsim.Run, task: int) -> np.ndarray:
    """The server's models on a task, on all its test examples, by version."""
    assert run.clients is not None
    return run.clients.accuracy[run.clients.client == task].to_numpy()


def bars(panel: Axes, runs: Runs) -> None:
    """The metrics of those who learn tasks."""
    names = [name for name in ARMS if name != "unlike labels"]
    for place, name in enumerate(names):
        found = np.array([metrics(runs[name, seed]) for seed in SEEDS])
        places = np.arange(len(METRICS)) + 0.27 * (place - 1)
        panel.bar(places, found.mean(0), 0.25, label=name, yerr=deviation(found))
    panel.set(xticks=range(len(METRICS)), xticklabels=METRICS, ylim=(0, 1.3), title="at the end of the last task")
    panel.legend(ncols=3, loc="upper left")


def inside(panel: Axes, runs: Runs) -> None:
    """Rounds of clients with unlike labels, from within."""
    mean = np.mean([within_rounds(runs["unlike labels", seed]) for seed in SEEDS], 0)
    steps = np.arange(mean.shape[1])
    for version, row in enumerate(mean):
        panel.plot(version * steps[-1] + steps, row, color="C0", linewidth=0.9,
                   label=None if version else "clients, step by step")  # fmt: skip
    panel.plot(np.arange(len(mean)) * steps[-1], mean[:, 0], "o", color="C1", label="the server's models")
    panel.set(xlabel="local steps of each client", ylabel="mean accuracy over classes",
              title="unlike labels: models part in every round")  # fmt: skip
    panel.legend()


if __name__ == "__main__":
    main()
