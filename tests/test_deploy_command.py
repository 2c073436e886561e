"""`fedsim deploy` and `fedsim replay`, as far as nothing has to be started for them."""

from __future__ import annotations

import io
import json
import re
import shlex
import stat
import tomllib
import zipfile
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

pytest.importorskip("flwr", reason="the extra `flower` is not installed")

from cryptography import x509
from flwr.cli.build import build_fab_from_disk
from grids import deployed
from test_deploy import FEDBUFF, uneven

from fedsim import scenario
from fedsim.__main__ import app
from fedsim.errors import ExtraMissing, RunFailed, ScenarioError
from fedsim.flower.replay import replay
from fedsim.results import load

ROOT = Path(__file__).parent.parent
DEVICES = ROOT / "scenarios" / "devices.yaml"


def called(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_readmes_commands_are_taken(tmp_path, monkeypatch) -> None:
    section = (ROOT / "fedsim" / "flower" / "README.md").read_text().split("## On devices")[1].split("\n## ")[0]
    lines = [shlex.split(line)[1:] for line in section.splitlines() if line.startswith("fedsim ")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenarios").symlink_to(ROOT / "scenarios")
    monkeypatch.setattr("fedsim.commands.deploy.run_here", lambda app, path, *others: None)
    deployed(tmp_path / "made", FEDBUFF)
    assert {line[0] for line in lines} == {"deploy", "replay", "calibrate"}
    for line in lines:
        if line[0] == "replay":
            (tmp_path / "made" / "run").rename(line[1])
        if line[0] == "calibrate":  # the runs of what was deployed above it; test_calibration.py reads such runs
            runs = {str(Path(word).parent) for word in line[1:] if not word.startswith("--")}
            assert runs <= {other[other.index("--out") + 1] for other in lines if "--out" in other}
        else:
            assert called(*line).exit_code == 0, line
    assert "fl.example.org" in (tmp_path / "deployments" / "devices" / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # Flower's own
def test_an_app_is_one_that_flower_takes_and_nothing_secret_is_in_it(tmp_path) -> None:
    options = ["--out", tmp_path, "--tls", "--host", "example.org", "--answer-limit", "90 s", "--devices", 3, "--json"]
    said = called("deploy", DEVICES, "seed=7", *options)
    assert json.loads(said.stdout) == {"path": str(tmp_path)}
    content = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(tmp_path / "app")))
    assert {"fedsim_app/scenario.yaml", "fedsim_app/server.py", "fedsim_app/client.py"} <= set(content.namelist())
    assert not [name for name in content.namelist() if "key" in name or name.endswith(".pem")]
    settings = tomllib.loads(content.read("pyproject.toml").decode())["tool"]["flwr"]["app"]["config"]
    assert settings == {"out": "run", "data": "", "devices": 3, "answer-limit": 90.0}
    assert yaml.safe_load(content.read("fedsim_app/scenario.yaml"))["seed"] == 7
    explained = (tmp_path / "README.md").read_text()
    assert "flower-supernode --superlink example.org:" in explained
    assert "--insecure" not in explained


def test_keys_are_their_owners_alone_and_certificates_say_whom_they_are_for(tmp_path) -> None:
    called("deploy", DEVICES, "--out", tmp_path, "--tls", "--host", "192.0.2.7")
    private = sorted((tmp_path / "keys").glob("*.key"))
    assert [path.name for path in private] == [*(f"client-{client}.key" for client in range(4)), "server.key"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    authority, server = (x509.load_pem_x509_certificate((tmp_path / "keys" / name).read_bytes())
                         for name in ("ca.pem", "server.pem"))  # fmt: skip
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("192.0.2.7")]


WRONG = {
    "more nodes than clients": (
        ["--local", 3],
        "--local: 3 SuperNodes are not one for each of the scenario's 4 clients",
    ),
    "no duration": (["--answer-limit", "soon"], "--answer-limit: expected a number with a unit"),
    "more devices than clients": (["--devices", 5], "--devices: 5 are not between 0 and the scenario's 4 clients"),
    "no clients": (["fleet.clients=none"], "fleet.clients"),
    "peers": (
        ["peers=dpsgd", "aggregator=null", "wire=null", "network={ring: {capacity: 1 Mbit/s}}"],
        "peers: devices talk",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_deployed_is_said_before_anything_is_written(tmp_path, name) -> None:
    options, why = WRONG[name]
    with pytest.raises(ScenarioError, match=re.escape(why)):
        raise called("deploy", DEVICES, *options, "--out", tmp_path / "out").exception
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ScenarioError, match="no deployment that could be replaced"):
        raise called("deploy", DEVICES, "--out", tmp_path).exception
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    for _ in range(2):
        assert called("deploy", DEVICES, "--out", tmp_path / "new").exit_code == 0


@pytest.mark.parametrize("verb", ["deploy", "replay"])
def test_without_flower_that_is_what_is_said(tmp_path, monkeypatch, verb) -> None:
    monkeypatch.setattr("fedsim.commands.options.find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=r"fedsim-lab\[flower\]"):
        raise called(verb, DEVICES).exception


def test_a_replay_says_whether_it_came_to_the_same_and_fails_if_not(tmp_path) -> None:
    run, _ = deployed(tmp_path, FEDBUFF, uneven(tmp_path))
    said = called("replay", run.path, "--out", tmp_path / "replays", "--json")
    assert said.exit_code == 0
    assert json.loads(said.stdout) == {
        "path": str(tmp_path / "replays" / tmp_path.name), "largest_difference": 0.0, "same_trace": True
    }  # fmt: skip
    weights = load_file(run.path / "model.safetensors")
    save_file({name: value + 1e-3 for name, value in weights.items()}, run.path / "model.safetensors")
    assert called("replay", run.path, "--out", tmp_path / "replays").exit_code == 1


def test_a_trace_of_something_else_is_noticed(tmp_path) -> None:
    run, _ = deployed(tmp_path, FEDBUFF, uneven(tmp_path))
    other = scenario.read(run.scenario, ["aggregator.fedbuff.concurrency=1"])[0].resolved
    (run.path / "scenario.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(RunFailed, match=r"something else: client . is not at work here"):
        replay(load(run.path), tmp_path / "replayed")
