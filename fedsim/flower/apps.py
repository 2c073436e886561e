"""A Flower app in a folder: its two halves, loaded as Flower does, and its run config."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from fedsim.errors import ScenarioError
from fedsim.flower.internals import (
    get_fused_config_from_dir,
    get_project_config,
    load_app,
    of_old,
    parse_config_args,
)


@dataclass(frozen=True)
class FlowerApp:
    """What a `pyproject.toml` with `[tool.flwr.app]` names."""

    folder: Path
    name: str
    components: Mapping[str, str]
    """`serverapp` and `clientapp`, each `module:attribute`."""
    run_config: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, overrides: Sequence[str] = ()) -> FlowerApp:
        """With its run config changed by overrides as of `flwr run`: `key=value` pairs, or a TOML file.

        Raises:
            ScenarioError: if there is no such app, or no such key.
        """
        try:
            project = get_project_config(folder)
            run_config = get_fused_config_from_dir(folder, parse_config_args(list(overrides)))
        except Exception as error:  # flwr raises all kinds
            raise ScenarioError(f"{folder}: {' '.join(str(error).split())}") from None
        return cls(folder, project["project"]["name"], project["tool"]["flwr"]["app"]["components"], run_config)

    @property
    def digest(self) -> str:
        """Of its Python and TOML files."""
        found = sha256()
        for path in sorted(self.folder.rglob("*")):
            if path.suffix in (".py", ".toml") and path.is_file():
                found.update(f"{path.relative_to(self.folder)}\n".encode() + path.read_bytes())
        return found.hexdigest()

    @contextmanager
    def loaded(self) -> Iterator[tuple[ServerApp, ClientApp]]:
        """Its halves. Its modules can be imported meanwhile, and are forgotten afterwards.

        Raises:
            ScenarioError: if one cannot be loaded, or is built in a way that cannot run in virtual time.
        """
        path, modules = list(sys.path), set(sys.modules)
        try:
            server, client = self._half("serverapp", ServerApp), self._half("clientapp", ClientApp)
            if of_old(server):
                raise ScenarioError(f"{self.folder}: the ServerApp has a server_fn, whose threads each wait for one "
                                    "client; give it a main function (@app.main()) with a Strategy")  # fmt: skip
            yield server, client
        finally:
            sys.path[:] = path
            inside = str(self.folder.resolve())
            for name in [name for name in sys.modules if name not in modules]:
                if str(getattr(sys.modules[name], "__file__", "")).startswith(inside):
                    del sys.modules[name]

    def _half(self, name: str, kind: type) -> Any:
        said = self.components.get(name, "")
        try:
            half = load_app(said, ScenarioError, self.folder.resolve())
        except Exception as error:  # the app's own, and flwr's of several lines
            reason = " ".join(str(error).split())
            raise ScenarioError(f"{self.folder}: cannot load {name} {said!r}: {reason}") from error
        if not isinstance(half, kind):
            raise ScenarioError(f"{self.folder}: {name} {said!r} is no {kind.__name__}")
        return half
