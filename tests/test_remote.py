"""Training on threads and on a Ray cluster: the same to the bit, on loopback alone, and nothing stays behind."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_experiment import SMALL, digests

import fedsim
from fedsim import cluster, experiment, scenario, sweeping
from fedsim.axes import override
from fedsim.errors import ExtraMissing, ScenarioError, TrainingFailed
from fedsim.executors.machines import Machines
from fedsim.executors.remote import CALLS, Remote
from fedsim.trace import Trace

ray_is_here = pytest.mark.skipif(cluster.find_spec("ray") is None, reason="Ray is not installed (extra `ray`)")
WAYS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "in rounds": {"aggregator": {"fedavg": {"cohort": 6, "goal": 4}}},
    "cnn": {"model": {"cnn_group": {"channels": [8]}}},
    "two vectors, and what clients keep": {"aggregator": {"scaffold": {"cohort": 4}}},
    "kept moments": {"local": {**SMALL["local"], "optimizer": {"adam": {"lr": 0.01}}, "optimizer_state": "kept"}},
    "a codec": {"wire": {"codec": {"top_k": {"ratio": 0.1}}}},
    "a poison": {"adversaries": {"share": 0.3, "poison": "label_flip"}},
    "drawn anew": {"data": {"digits": {"partition": {"resampled": {"alpha": 0.5}}}}},
}


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of two workers, as a run would start it."""
    connected = cluster.connect(workers=2)
    yield connected
    connected.shutdown()


@pytest.fixture(params=["threads", pytest.param("processes", marks=[ray_is_here, pytest.mark.ray])])
def crew(request) -> dict[str, Any]:
    """An executor whose two workers are here, or beside us."""
    if request.param == "threads":
        return {"remote": {"workers": 2}}
    request.getfixturevalue("ray")
    return remote()


def run(out: Path, executor: Any, **changes: Any) -> fedsim.Run:
    return fedsim.run({**SMALL, **changes, "executor": executor}, out=out, picture=False)


def remote(**arguments: Any) -> dict[str, Any]:
    return {"remote": {"address": "local", "workers": 2, **arguments}}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_the_same_to_the_bit(crew, tmp_path, way) -> None:
    here, there = (run(tmp_path, executor, **WAYS[way]) for executor in ("inline", crew))
    assert digests(here) == digests(there)


def test_peers_and_edges_train_there_too(crew, tmp_path) -> None:
    peers = {"aggregator": None, "peers": "gossip", "network": "ring", "fleet": {"clients": 4, "devices": "fedscale"}}
    edges = {"network": "tree", "edges": {"rounds": 2, "aggregator": "fedavg"}}
    for way in (peers, edges):
        here, there = (run(tmp_path, executor, **way, until={"versions": 3}) for executor in ("inline", crew))
        assert digests(here) == digests(there)


def test_it_fails_as_it_does_here(crew, tmp_path) -> None:
    said = []
    for executor in ("inline", crew):
        for change in ({"optimizer": {"sgd": {"lr": 1e30}}}, {"optimizer": {"test_remote:Broken": {"lr": 0.1}}}):
            with pytest.raises(TrainingFailed) as failure:
                run(tmp_path, executor, local={**SMALL["local"], **change}, aggregator="async_fedavg")
            said.append(str(failure.value))
    assert said[:2] == said[2:]
    assert "it broke" in said[1]


class Broken(torch.optim.SGD):
    """A user's optimizer, which cannot take as many numbers as the model has."""

    def step(self, closure: Any = None) -> Any:
        if any(one.numel() > 1000 for group in self.param_groups for one in group["params"]):
            raise ZeroDivisionError("it broke")
        return super().step(closure)


@ray_is_here
@pytest.mark.ray
def test_a_vector_travels_once_and_is_dropped_with_its_last_owner(ray, tmp_path, monkeypatch) -> None:
    sent, held = [], []

    def put(self: Machines, vector: Any, once=Machines.put) -> Any:
        known = len(self.vectors)
        found = once(self, vector)
        sent.append(len(self.vectors) - known)
        held.append(len(self.vectors))
        return found

    monkeypatch.setattr(Machines, "put", put)
    [arm] = scenario.read({**SMALL, "executor": remote(), "aggregator": {"fedavg": {"cohort": 6}}})
    simulation = experiment.assemble(arm).simulation(Trace())
    simulation.run()
    executor = simulation.world.executor
    assert isinstance(executor, Remote)
    assert sum(sent) == 6, "once a version"
    assert len(sent) > 6
    assert max(held) <= 2
    crew: Any = executor.crew
    del simulation, executor
    gc.collect()
    assert crew.vectors == {}


@pytest.mark.parametrize("aggregator", ["fedavg", "fedbuff"])
def test_workers_go_on_while_results_are_read(crew, aggregator) -> None:
    """When one is read, the next ones are under way, in the order of need; nobody is trained twice or for nothing."""
    [arm] = scenario.read({**SMALL, **CNN, "executor": crew, "until": {"versions": 3}, "aggregator": aggregator})
    simulation = experiment.assemble(arm).simulation(Trace())
    executor: Any = simulation.world.executor
    once, flying, landed = executor.crew.land, [], []

    def land(task: Any) -> Any:
        flying.append(len(executor.crew.flights))
        landed.append((task.client, task.version, task.ordinal))
        return once(task)

    executor.crew.land = land
    simulation.run()
    assert CALLS * 2 <= max(flying) <= 2 * CALLS * 2
    assert sorted(flying)[len(flying) // 2] > 2
    assert len(set(landed)) == len(landed) == executor.trained
    del simulation
    gc.collect()
    assert not executor.crew.flights


def test_memory_is_flat_over_500_rounds(crew) -> None:
    many = {
        **SMALL,
        "until": {"versions": 500},
        "executor": crew,
        "model": "logistic",
        "evaluate": {"every": "10 h"},
    }
    [arm] = scenario.read(many)
    sizes = []

    def watch(progress, now) -> None:
        if progress.version % 100 == 0:
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

    experiment.assemble(arm).simulation(Trace(), watch=watch).run()
    assert sizes[-1] - sizes[0] < 10e6


@ray_is_here
@pytest.mark.ray
def test_it_listens_on_loopback_alone(ray) -> None:
    found = listening(family(os.getpid()))
    assert len(found) > 3
    assert {host for host, _ in found} <= {"0100007F", "0" * 24 + "01000000", "0000000000000000FFFF00000100007F"}


@ray_is_here
@pytest.mark.ray
def test_a_sweep_on_a_cluster_is_the_sweep(ray, tmp_path) -> None:
    axes = [override("seed=0..1"), override("learning_seed=1,2")]
    there = sweeping.sweep(SMALL, *axes, out=tmp_path, ray="local", workers=2)
    for one in there.arms:
        assert digests(one) == digests(fedsim.run(one.scenario, out=tmp_path, picture=False))


@pytest.mark.parametrize("way", ["failure", "interrupt"])
def test_nothing_stays_behind(crew, tmp_path, way) -> None:
    mark = f"FEDSIM_TEST_{os.getpid()}_{way}"
    changes = {"failure": ["local.optimizer.sgd.lr=1e30"], "interrupt": ["until.versions=100000"]}[way]
    (file := tmp_path / "small.yaml").write_text(json.dumps({**SMALL, "executor": crew}))
    words = [sys.executable, "-m", "fedsim", "run", str(file), *changes, "--out", str(tmp_path)]
    running = subprocess.Popen(
        words, env={**os.environ, mark: "1", "TMPDIR": "/tmp"}, stderr=subprocess.PIPE, text=True
    )
    if way == "interrupt":
        until(lambda: list(tmp_path.glob("small/*/trace.parquet/*")))
        assert marked(mark)
        running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert {"failure": "diverged", "interrupt": "go on with: fedsim resume"}[way] in said
    until(lambda: not marked(mark))


@ray_is_here
@pytest.mark.ray
def test_what_a_lost_machine_was_doing_is_done_elsewhere(tmp_path) -> None:
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=240,
                          env={**os.environ, **cluster.PRIVATE}, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    here = run(tmp_path, "inline", **CNN)
    assert json.loads(done.stdout.splitlines()[-1]) == {"nodes": [2, 1], **digests(here)}


CNN: dict[str, Any] = {"model": {"cnn_group": {"channels": [16]}}, "until": {"versions": 40}}


def lose_a_machine(out: Path) -> None:
    """Run on two nodes, one of which is killed on the way; print how many there were, and what came out."""
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = nodes.add_node(num_cpus=1)
    cluster.connect(str(nodes.address))
    calls, once = [], Machines.call

    def call(self: Machines, worker: Any, tasks: Any) -> Any:
        calls.append(once(self, worker, tasks))
        if len(calls) == 20:  # some of these are under way
            nodes.remove_node(other, allow_graceful=False)
        return calls[-1]

    Machines.call = call
    before = len(nodes.list_all_nodes())
    executor = {"remote": {"address": str(nodes.address)}}
    found = fedsim.run({**SMALL, **CNN, "executor": executor}, out=out, picture=False)
    after = len(nodes.list_all_nodes())
    ray.shutdown()
    nodes.shutdown()
    print(json.dumps({"nodes": [before, after], **digests(found)}))  # noqa: T201  # what the test reads


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:100000", "auto"])
def test_where_no_cluster_answers_one_sentence_says_so(tmp_path, monkeypatch, address) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: True)
    with pytest.raises(ScenarioError, match=f"no Ray cluster answers at '{address}'.*expected local, or HOST:PORT"):
        run(tmp_path, {"remote": {"address": address}})


def test_without_ray_it_is_an_extra_that_is_missing(monkeypatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=r"fedsim-lab\[ray\]"):
        experiment.assemble(scenario.read({**SMALL, "executor": remote()})[0])
    with pytest.raises(ExtraMissing, match="Ray"):
        sweeping.sweep(SMALL, override("seed=0..1"), ray="local")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"wire": {"clip": {"adaptive": {"norm": 1.0}}}}, r"wire\.clip: no executor elsewhere: what this learns"),
     ({"local": {**SMALL["local"], "growth": "norm_test"}}, r"local\.growth: no executor elsewhere"),
     ({"aggregator": None, "coding": "uncoded", "local": {**SMALL["local"], "steps": 1},
       "fleet": {"clients": 4, "devices": "fedscale"}}, "coding: no executor elsewhere")],
)  # fmt: skip
def test_what_learns_on_the_way_is_refused(change, said) -> None:
    with pytest.raises(ScenarioError, match=said):
        experiment.assemble(scenario.read({**SMALL, "executor": {"remote": {"workers": 2}}, **change})[0])


def until(there: Any) -> None:
    """Wait for something; the test fails if it does not come in two minutes."""
    began = time.monotonic()
    while not there():
        assert time.monotonic() - began < 120
        time.sleep(0.05)


def marked(mark: str) -> list[str]:
    """Processes that have this in their environment."""
    return [path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if mark in text(path)]


def text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def family(pid: int) -> set[int]:
    """A process and all that it has started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        if found := re.match(r"(\d+) \(.*\) \S (\d+)", text(path), re.DOTALL):
            parents[int(found[1])] = int(found[2])
    members = {pid}
    while more := {child for child, parent in parents.items() if parent in members} - members:
        members |= more
    return members


def listening(pids: set[int]) -> list[tuple[str, str]]:
    """Addresses and ports, in hexadecimal, that these processes listen on."""
    links = [link for pid in pids for link in Path(f"/proc/{pid}/fd").glob("*")]
    own = {re.sub(r"\D", "", os.readlink(link)) for link in links if os.path.lexists(link) and "socket" in peek(link)}
    rows = [line.split() for kind in ("tcp", "tcp6") for line in text(Path("/proc/net") / kind).splitlines()[1:]]
    return [tuple(row[1].split(":")) for row in rows if row[3] == "0A" and row[9] in own]  # type: ignore[misc]


def peek(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


if __name__ == "__main__":
    lose_a_machine(Path(sys.argv[1]))
