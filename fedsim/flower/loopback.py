"""A SuperLink and its SuperNodes on this machine alone: started, run, and stopped again whatever happens."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from time import monotonic, sleep
from types import TracebackType

import fedsim
from fedsim.errors import RunFailed
from fedsim.flower.authority import Keys
from fedsim.results import Run

HOST, NAME = "127.0.0.1", "loopback"
TAG = "FEDSIM_FEDERATION"
"""In the environment of every process that belongs to a federation, and of those that these start."""
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    "PYTHONUNBUFFERED": "1",
    "NO_COLOR": "1",
    "COLUMNS": "200",
}
"""Nothing is asked of any other machine, and nobody waits for a second in vain."""
START_LIMIT, STOP_PATIENCE, POLL, LOOK_EVERY = 120.0, 8.0, 0.1, 20.0
"""Seconds: for all to be there; from a polite end to a rude one; between two looks at a file, and at Flower's list."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


@dataclass
class Loopback:
    """A federation of so many clients, in a folder for its logs, keys and the clients' memories.

    As a context it is there inside, and gone outside: all processes that it has started, and those that they have.
    """

    folder: Path
    clients: int
    tls: bool = False
    data: Path | None = None
    throttle: bool = False
    """Whether clients are as slow as their devices in the scenario."""
    environment: Mapping[str, str] = field(default_factory=dict)
    link: subprocess.Popen[bytes] | None = field(default=None, init=False)
    nodes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)
    tag: str = field(default_factory=lambda: uuid.uuid4().hex, init=False)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.home = self.folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        self.keys = Keys.made(self.folder / "keys", self.clients, ["localhost", HOST]) if self.tls else None
        self.bin = Path(sys.executable).parent
        paths = [str(Path(fedsim.__file__).parent.parent), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
        self.env = {**os.environ, **QUIET, TAG: self.tag, "FLWR_HOME": str(self.home),
                    "PATH": os.pathsep.join([str(self.bin), os.environ.get("PATH", "")]),
                    "PYTHONPATH": os.pathsep.join(path for path in paths if path), **self.environment}  # fmt: skip

    # Life ------------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Loopback:
        try:
            self.port, *self.ports = free_ports(1 + self.clients)
            self.introduce()
            self.start_link()
            self.register()
            for client in range(self.clients):
                self.start_node(client)
            for client in range(self.clients):
                log = self.log_of(client)
                self.wait(lambda log=log: b"SuperNode ID:" in log.read_bytes(), self.nodes[client], log)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def introduce(self) -> None:
        """Tell Flower's command line where the SuperLink is."""
        trust = f'root-certificates = "{self.keys.authority}"' if self.keys else "insecure = true"
        config = f'[superlink]\ndefault = "{NAME}"\n\n[superlink.{NAME}]\naddress = "{HOST}:{self.port}"\n{trust}\n'
        (self.home / "config.toml").write_text(config)

    def start_link(self) -> None:
        """The server's side."""
        trust = ["--insecure"] if self.keys is None else [
            "--ssl-ca-certfile", self.keys.authority, "--ssl-certfile", self.keys.certificate,
            "--ssl-keyfile", self.keys.private, "--enable-supernode-auth"]  # fmt: skip
        self.link = self.started("superlink", ["--host", HOST, "--port", self.port, *trust], self.folder / "link.log")
        self.wait(self.healthy, self.link, self.folder / "link.log")

    def register(self) -> None:
        """Make the nodes' public keys known, before they start."""
        if self.keys is not None:
            own = [self.keys.device(client).with_suffix(".pub") for client in range(self.clients)]
            calls = [self.call("supernode", "register", path, NAME, "--format", "json") for path in own]
            for call in calls:
                self.result(call)

    def start_node(self, client: int) -> None:
        """A device; also once more, after it has ended."""
        state = self.folder / f"client-{client}"
        state.mkdir(exist_ok=True)
        config = f'partition-id={client} num-partitions={self.clients} state-dir="{state}"'
        config += " throttle=true" if self.throttle else ""
        config += f' data="{self.data.resolve()}"' if self.data else ""
        trust = ["--insecure"] if self.keys is None else [
            "--root-certificates", self.keys.authority,
            "--auth-supernode-private-key", self.keys.device(client)]  # fmt: skip
        arguments = ["--superlink", f"{HOST}:{self.port}", "--host", HOST, "--port", self.ports[client], *trust]
        home = {"FLWR_HOME": str(state / "home")}
        self.nodes[client] = self.started("supernode", [*arguments, "--node-config", config], self.log_of(client), home)

    def log_of(self, client: int) -> Path:
        """What a device says."""
        return self.folder / f"client-{client}.log"

    def started(
        self, name: str, arguments: Sequence[object], log: Path, further: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """One of Flower's programs, in a session of its own, so that a Ctrl-C is ours to hear."""
        command = [str(self.bin / f"flower-{name}"), *map(str, arguments)]
        with log.open("wb") as file:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=self.folder,
                                    env={**self.env, **(further or {})}, start_new_session=True)  # fmt: skip

    def wait(self, ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
        """Until it is ready. RunFailed if it has ended, or takes too long."""
        end = monotonic() + START_LIMIT
        while not ready():
            if process.poll() is not None or monotonic() > end:
                raise RunFailed(f"{Path(process.args[0]).name} did not start: {_tail(log)}")  # type: ignore[index]
            sleep(POLL)

    def healthy(self) -> bool:
        """Whether the SuperLink answers."""
        context = ssl.create_default_context(cafile=str(self.keys.authority)) if self.keys else None
        url = f"http{'s' if self.keys else ''}://{HOST}:{self.port}/health"
        try:
            with urllib.request.urlopen(url, timeout=1, context=context) as reply:
                return reply.status == 200
        except OSError:
            return False

    def stop(self) -> None:
        """End everything: politely at first, and nodes before the link, so that they can say good-bye."""
        own = [*self.nodes.values(), *([self.link] if self.link else [])]
        for number, patience in ((signal.SIGTERM, STOP_PATIENCE), (signal.SIGKILL, STOP_PATIENCE)):
            end = monotonic() + patience
            for process in own:
                if process.poll() is None:
                    process.send_signal(number)
            while (left := self.processes()) and monotonic() < end:
                for pid in left if number == signal.SIGKILL else []:
                    _kill(pid)
                sleep(POLL)
                for process in own:
                    process.poll()  # so that it is no zombie

    def processes(self) -> list[int]:
        """All that belong to this federation, whoever has started them."""
        mark, found = f"{TAG}={self.tag}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:
                continue  # another's, or gone meanwhile
        return found

    # Runs ------------------------------------------------------------------------------------------------------------

    def run(self, app: Path, out: Path, watch: Callable[[], None] = lambda: None) -> None:
        """Run an app until its run folder says how it ended; `watch` is called now and then.

        RunFailed with the reason if it failed.
        """
        settings = f'out="{out.resolve()}" data="{self.data.resolve() if self.data else ""}"'
        name = self.result(self.call("run", app.resolve(), NAME, "--format", "json", "--run-config", settings))[
            "run-id"
        ]
        looked = monotonic()
        found = Run(out)
        while not found.finished:
            if found.error:
                raise RunFailed(found.error["message"])
            if monotonic() - looked > LOOK_EVERY:
                self.refuse_end(name, out)
                looked = monotonic()
            watch()
            sleep(POLL)

    def refuse_end(self, name: str, out: Path) -> None:
        """RunFailed if a run has ended without saying how."""
        [told] = self.result(self.call("list", NAME, "--run-id", name, "--format", "json"))["runs"]
        said = Run(out).finished or Run(out).error
        if told["status"].startswith("finished") and not said:
            raise RunFailed(
                f"Flower says {told['status']}: {told.get('status-details', '')} {_tail(self.server_log(name))}"
            )

    def call(self, *arguments: object) -> subprocess.Popen[str]:
        """Flower's command line."""
        command = [str(self.bin / "flwr"), *map(str, arguments)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, env=self.env, cwd=self.folder, start_new_session=True)  # fmt: skip

    def result(self, call: subprocess.Popen[str]) -> dict:
        """What it says, in JSON. RunFailed if it says something else."""
        said, _ = call.communicate(timeout=START_LIMIT)
        told = json.loads(said[said.index("{") :]) if "{" in said else {}
        if call.returncode or not told.get("success"):
            raise RunFailed(f"flwr {' '.join(call.args[1:3])}: {said[-2000:].strip()}")  # type: ignore[index]
        return told

    def server_log(self, name: str) -> Path:
        """What the server has said in a run, as a file."""
        said, _ = self.call("log", name, NAME, "--show").communicate(timeout=START_LIMIT)
        log = self.folder / "server.log"
        log.write_text(said)
        return log


def _tail(log: Path) -> str:
    lines: Iterator[str] = filter(None, map(str.strip, log.read_text(errors="replace").splitlines()[-12:]))
    return " | ".join(lines)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
