"""Real SuperLinks and SuperNodes, on this machine alone."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest
import yaml
from test_deploy import FEDBUFF, SCAFFOLD, kinds, same_again, simulated

pytest.importorskip("flwr", reason="the extra `flower` is not installed")

from fedsim import scenario
from fedsim.errors import RunFailed
from fedsim.flower.folder import Folder
from fedsim.flower.loopback import Loopback
from fedsim.flower.replay import difference
from fedsim.results import load
from fedsim.units import SECOND

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.flower


@pytest.fixture
def traceable() -> Iterator[Callable[[], list[str]]]:
    """All that a test has started, and what that has started, carries a mark; nothing of it is left when it is over."""
    mark = uuid.uuid4().hex
    os.environ["FEDSIM_TEST"] = mark

    def found() -> list[str]:
        names = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if f"FEDSIM_TEST={mark}".encode() in (path / "environ").read_bytes().split(b"\0"):
                    names.append((path / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return names

    yield found
    del os.environ["FEDSIM_TEST"]
    assert found() == []


def command(*arguments: object) -> subprocess.Popen[str]:
    """It hears Ctrl-C, even if these tests do not, as in a shell's background."""
    return subprocess.Popen([sys.executable, "-m", "fedsim", *map(str, arguments)], text=True, cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip


def small(base: dict, clients: int) -> dict:
    return base | {"fleet": base["fleet"] | {"clients": clients}}


def quick(clients: int) -> dict:
    """Buffered, on points that are made in no time, for every message has a process of its own."""
    points = {"separated": {"clients": clients, "gamma": 0.5, "dimension": 32}}
    return small(FEDBUFF, clients) | {"data": points, "model": {"mlp": {"hidden": [32]}}, "evaluate": {"every": "1 s"}}


def test_a_federation_with_keys_comes_to_what_the_simulator_says_and_so_does_a_replay(tmp_path, traceable) -> None:
    base = small(SCAFFOLD, 2) | {"until": {"versions": 2}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(base))
    said, faults = command(
        "deploy", tmp_path / "two.yaml", "--local", 2, "--tls", "--out", tmp_path / "out", "--json"
    ).communicate()
    assert faults == ""
    run = load(json.loads(said)["path"])
    assert difference(run, simulated(tmp_path, base)) == 0
    same_again(run, tmp_path)
    assert kinds(run, 0, "join", "start", "train", "upload", "arrive")[:5] == [
        "join",
        "start",
        "train",
        "upload",
        "arrive",
    ]
    secrets = list((tmp_path / "out" / "federation" / "keys").glob("*.key"))
    assert len(secrets) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    said = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".key")
    assert b"PRIVATE KEY" not in said


def test_a_node_that_is_killed_loses_its_work_and_comes_back_with_its_memory(tmp_path, traceable) -> None:
    """What its trainings have left with it: momentum, and what its messages have lost."""
    local = FEDBUFF["local"] | {"optimizer": {"sgd": {"lr": 0.1, "momentum": 0.9}}, "optimizer_state": "kept"}
    base = quick(3) | {"local": local, "wire": {"codec": {"top_k": {"ratio": 0.1}}}, "until": {"versions": 5}}
    [arm] = scenario.read(base)
    Folder(tmp_path).write(arm)
    loopback, killed = Loopback(tmp_path / "federation", 3), []

    def kill_once() -> None:
        trace = tmp_path / "run" / "trace.parquet"
        if not killed and trace.exists() and "arrive" in kinds(load(tmp_path / "run"), 0, "arrive"):
            loopback.nodes[0].send_signal(signal.SIGKILL)
            loopback.nodes[0].wait()
            loopback.start_node(0)
            killed.append(monotonic())

    with loopback:
        loopback.run(Folder(tmp_path).app, tmp_path / "run", kill_once)
    run = load(tmp_path / "run")
    assert killed
    assert run.receipt["counts"]["versions"] == 5
    story = kinds(run, 0, "join", "leave", "lost", "arrive")
    assert story.index("leave") > story.index("arrive")
    assert "join" in story[story.index("leave") :]
    same_again(run, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_interrupted_leaves_nothing_behind(tmp_path, traceable, number) -> None:
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(small(SCAFFOLD, 2)))
    process = command("deploy", tmp_path / "two.yaml", "--local", 2, "--out", tmp_path / "out")
    end = monotonic() + 120
    while not (tmp_path / "out" / "federation" / "client-1.log").exists():
        assert process.poll() is None
        assert monotonic() < end
        sleep(0.1)
    assert traceable()
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode != 0


@pytest.mark.soak
def test_a_frozen_node_counts_as_gone_and_when_it_thaws_it_is_asked_again(tmp_path, traceable) -> None:
    base = quick(3) | {"until": {"versions": 12}}
    [arm] = scenario.read(base)
    Folder(tmp_path).write(arm, answer_limit=120 * SECOND)
    loopback, frozen = Loopback(tmp_path / "federation", 3), []

    def freeze() -> None:
        if not (tmp_path / "run" / "trace.parquet").exists():
            return
        story = kinds(load(tmp_path / "run"), 0, "arrive", "leave")
        if not frozen and "arrive" in story:
            loopback.nodes[0].send_signal(signal.SIGSTOP)
            frozen.append(monotonic())
        elif len(frozen) == 1 and "leave" in story:
            loopback.nodes[0].send_signal(signal.SIGCONT)
            frozen.append(monotonic())

    with loopback:
        loopback.run(Folder(tmp_path).app, tmp_path / "run", freeze)
    run = load(tmp_path / "run")
    assert len(frozen) == 2
    story = kinds(run, 0, "join", "leave", "lost", "arrive")
    assert "join" in story[story.index("leave") :]
    same_again(run, tmp_path)


LIAR = """\
from flwr.clientapp import ClientApp

from fedsim.flower.letters import packed, unpacked

honest, app = app, ClientApp()


@app.query()
def introduce(message, context):
    return honest(message, context)


@app.train()
def train(message, context):
    reply = honest(message, context)
    if context.node_config["partition-id"] == 0:
        message = reply.content["message"]
        {does}
    return reply
"""
LIES = {
    "nan": 'message["0"] = packed(unpacked(message["0"]) * float("nan"))',
    "garbage": 'message["0"] = packed(unpacked(message["0"])[:7])',
    "death": "import os; os._exit(9)",
    "fault": "raise RuntimeError('out of memory')",
}


@pytest.mark.soak
@pytest.mark.parametrize("name", LIES)
def test_what_a_node_does_wrong_is_its_own_affair(tmp_path, traceable, name) -> None:
    [arm] = scenario.read(quick(3) | {"until": {"versions": 3}})
    folder = Folder(tmp_path)
    folder.write(arm)
    client = folder.app / "fedsim_app" / "client.py"
    client.write_text(client.read_text() + LIAR.format(does=LIES[name]))
    with Loopback(tmp_path / "federation", 3) as loopback:
        loopback.run(folder.app, tmp_path / "run")
    run = load(tmp_path / "run")
    assert run.receipt["counts"]["versions"] == 3
    same_again(run, tmp_path)


@pytest.mark.soak
def test_an_app_that_cannot_be_imported_ends_with_a_reason(tmp_path, traceable) -> None:
    [arm] = scenario.read(small(SCAFFOLD, 2))
    folder = Folder(tmp_path)
    folder.write(arm)
    server = folder.app / "fedsim_app" / "server.py"
    server.write_text(server.read_text() + "raise RuntimeError('no such thing')\n")
    with pytest.raises(RunFailed, match="no such thing"), Loopback(tmp_path / "federation", 2) as loopback:
        loopback.run(folder.app, tmp_path / "run")
