"""A scenario as a Flower app that `flwr run` takes, and what to say to Flower's other programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from fedsim.errors import ScenarioError
from fedsim.flower.authority import Keys
from fedsim.flower.server import ANSWER_LIMIT
from fedsim.scenario import Arm
from fedsim.units import SECOND

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fedsim-app"
version = "1.0.0"
description = "A federation of fedsim on devices"
license = "Apache-2.0"
dependencies = ["flwr>=1.41,<1.42", "fedsim-lab"]

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "fedsim"

[tool.flwr.app.components]
serverapp = "fedsim_app.server:app"
clientapp = "fedsim_app.client:app"

[tool.flwr.app.config]
out = "run"  # the run folder, from where the SuperLink was started
data = ""  # a folder to look for data in first
devices = {devices}  # so many have to be there before the first is asked
answer-limit = {answer_limit}  # seconds; a device that is silent for longer counts as gone until it answers
"""
HALF = '''"""The {half} of scenario.yaml."""

from pathlib import Path

from fedsim.flower.{half}_app import {half}_app

app = {half}_app(Path(__file__).with_name("scenario.yaml"))
'''
README = """\
# A federation on devices

Every machine needs fedsim with Flower: `pip install 'fedsim-lab[flower]'`, and in its environment
`FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1` if nothing is to be told to anybody.

The server:

```sh
{superlink}
```

Every device. N, from 0 to {last}, says which client it is, and so what its part of the data is; `state-dir` is where it
keeps what its trainings leave with it, and `data` (a folder, in quotes too) where it looks for data first.

```sh
{supernode}
```

Tell Flower's command line where the server is, in `config.toml` of the folder `FLWR_HOME` (`~/.flwr` if not set):

```toml
[superlink.fedsim]
address = "{host}:{port}"
{trust}
```

{register}Start the run from this folder. Its run folder appears where the SuperLink was started.

```sh
flwr run app fedsim
```
"""
REGISTER = """\
Make the devices' public keys known before they start, each with `flwr supernode register keys/client-N.pub fedsim`.
What a device needs of the folder `keys` is `ca.pem` and its own `client-N.key`.

"""
PORT = 39093


@dataclass(frozen=True)
class Folder:
    """Of a deployment. Keys stay out of the app's own folder, which travels to every device."""

    path: Path

    @property
    def app(self) -> Path:
        """What `flwr run` takes."""
        return self.path / "app"

    def write(self, arm: Arm, devices: int = 0, answer_limit: int = ANSWER_LIMIT) -> None:
        """The app of a scenario, for so many devices (0: all clients); `answer_limit` in microseconds.

        ScenarioError if something else is in the folder.
        """
        package = self.app / "fedsim_app"
        if self.path.exists() and any(self.path.iterdir()) and not package.exists():
            raise ScenarioError(f"{self.path} is there already, and is no deployment that could be replaced")
        package.mkdir(parents=True, exist_ok=True)
        settings = PYPROJECT.format(devices=devices, answer_limit=answer_limit / SECOND)
        (self.app / "pyproject.toml").write_text(settings)
        (package / "__init__.py").write_text('"""A scenario, for Flower."""\n')
        for half in ("server", "client"):
            (package / f"{half}.py").write_text(HALF.format(half=half))
        (package / "scenario.yaml").write_text(yaml.safe_dump(arm.resolved, sort_keys=False, allow_unicode=True))

    def explain(self, clients: int, host: str, keys: Keys | None) -> None:
        """How to start it on machines that reach the server's under this name."""
        link, node, trust = ["--insecure"], ["--insecure"], "insecure = true"
        if keys is not None:
            link = ["--ssl-ca-certfile keys/ca.pem", "--ssl-certfile keys/server.pem", "--ssl-keyfile keys/server.key",
                    "--enable-supernode-auth"]  # fmt: skip
            node = ["--root-certificates keys/ca.pem", "--auth-supernode-private-key keys/client-N.key"]
            trust = f'root-certificates = "{keys.authority.resolve()}"'
        link = ["flower-superlink --host 0.0.0.0", f"--port {PORT} --disable-runtime-dependency-installation", *link]
        node = [
            f"flower-supernode --superlink {host}:{PORT}",
            *node,
            "--node-config 'partition-id=N state-dir=\"state\"'",
        ]
        said = README.format(superlink=_lines(link), supernode=_lines(node), last=clients - 1, host=host, port=PORT,
                             trust=trust, register="" if keys is None else REGISTER)  # fmt: skip
        (self.path / "README.md").write_text(said)


def _lines(words: Sequence[str]) -> str:
    return " \\\n    ".join(words)
