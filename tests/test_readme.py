"""What the READMEs show is what happens: every link, command and block, and what a user's own files bring."""

from __future__ import annotations

import glob
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest
import torch
import typer
from documents import DOCUMENTS, OWN, ROOT, anchors, blocks, commands, inline, links, name_of, prose, python_file
from servers import SIZE, Driver, roster, start
from typer.testing import CliRunner

import fedsim
from fedsim.__main__ import app
from fedsim.conduct import foresee
from fedsim.describe import describe
from fedsim.errors import DataMissing, ScenarioError
from fedsim.experiment import assemble
from fedsim.keys import Scenario
from fedsim.scenario import Arm, checked, read
from fedsim.yamlfile import YamlFile

HALVING = "my_rules:Halving"


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """The README's file, where Python finds it."""
    code = python_file("my_rules.py")
    (tmp_path / "my_rules.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rules", raising=False)
    spec = importlib.util.find_spec("my_rules")
    assert spec is not None
    assert code.count("\n") <= 36
    yield __import__("my_rules")
    sys.modules.pop("my_rules", None)


SMALL = {
    "until": {"versions": 3},
    "data": {"digits": {"partition": "iid"}},
    "model": "logistic",
    "fleet": {"clients": 12, "devices": "fedscale"},
    "local": {"steps": 2, "batch": 8, "optimizer": {"sgd": {"lr": 0.1}}},
    "aggregator": {HALVING: {"goal": 2}},
    "evaluate": {"every": "1 h"},
}


def test_the_readmes_own_aggregator_runs_from_a_scenario(rules, tmp_path) -> None:
    found = fedsim.run(SMALL, out=tmp_path / "runs", picture=False)
    assert found.receipt["counts"]["versions"] == 3
    assert found.scenario["aggregator"] == {HALVING: {"concurrency": 10, "goal": 2, "lr": 1.0}}


def test_its_arguments_are_checked_like_any_other(rules, tmp_path) -> None:
    with pytest.raises(ScenarioError, match="there is no key 'gaol' here; did you mean goal"):
        fedsim.run(SMALL | {"aggregator": {HALVING: {"gaol": 2}}}, out=tmp_path)
    with pytest.raises(ScenarioError, match="goal"):
        fedsim.run(SMALL | {"aggregator": {HALVING: {"goal": "many"}}}, out=tmp_path)


def test_it_says_of_itself_what_its_author_wrote(rules) -> None:
    words = describe("aggregator", HALVING)
    assert "one that is s versions old counts 2 ** -s" in words
    assert "concurrency = 10\n    How many clients are at work." in words


def test_it_does_what_it_says(rules) -> None:
    """The slow client's update is two versions old, so it counts a quarter over the goal; bad numbers are refused."""
    aggregator = rules.Halving(torch.zeros(SIZE), roster(), concurrency=3, goal=2)
    driver = Driver(aggregator, 3)
    slow, *others = sorted(driver.busy)
    for client in (*others, *others, others[0]):
        driver.hear(client, torch.zeros(SIZE))
    driver.hear(slow, torch.ones(SIZE))
    assert aggregator.version == 3
    assert torch.allclose(aggregator.params, torch.full((SIZE,), 0.25 / 2))
    driver.hear(min(driver.busy), torch.full((SIZE,), float("nan")))
    driver.hear(min(driver.busy), torch.zeros(SIZE))
    assert [refusal.fault for refusal in aggregator.refused] == ["infinite"]
    assert torch.isfinite(aggregator.params).all()
    assert start().shape == aggregator.params.shape


@pytest.mark.parametrize(
    ("family", "name", "sentence"),
    [("agregator", "fedavg", "there is no family 'agregator'; did you mean aggregator"),
     ("aggregator", "fedstal", "there is no aggregator 'fedstal'; did you mean fedstale"),
     ("aggregator", "nowhere:Rule", "cannot load 'nowhere:Rule'")],
)  # fmt: skip
def test_what_does_not_exist_cannot_be_described(family, name, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        describe(family, name)


def test_every_built_in_plug_in_describes_itself() -> None:
    from fedsim.describe import plugins

    for family, members in plugins().items():
        for name in members:
            assert len(describe(family, name).splitlines()[2]) > 10, (family, name)


def test_the_readmes_own_loop_runs() -> None:
    [loop] = [block for block in blocks("python") if "import Frugal" in block.text]
    found: dict = {}
    with torch.random.fork_rng(devices=[]):
        exec(loop.text, found)
    assert found["optimizer"].state[found["embedding"]]["exp_avg"].shape == (50, 16)
    assert found["optimizer"].state[found["rest"][0]]["exp_avg"].shape == (64, 4)


# All documents -------------------------------------------------------------------------------------------------------

PLAIN: dict[str, Any] = YamlFile((ROOT / "scenarios" / "quickstart.yaml").read_text(), "quickstart").data
PLAIN.pop("compare")
SMALLER = {
    "scenarios/quickstart.yaml": ["until.time=6 min", "local.steps=3"],
    "scenarios/gossip_digits.yaml": ["until.versions=2"],
    "scenarios/flower/phones.yaml": ["-c", "num-server-rounds=2"],
}
"""What is added to commands that run these, so that they take a second."""
NOT_HERE = {
    "venv": "makes an environment",
    "pip": "installs",
    "pytest": "is what runs this",
    "--local": "starts Flower's processes: tests/test_deploy_for_real.py",
    "replay": "needs a deployment: tests/test_deploy_command.py",
    "calibrate": "needs several: tests/test_calibration.py",
    "--quick": "takes minutes: tests/test_gallery.py",
    "kernels/bench.py": "checks every law anew: tests/test_kernels.py",
    "scenarios/scorecard.yaml": "takes minutes: tests/test_scorecard.py",
    "scorecard": "needs that one's run",
    "scenarios/phones_fashion_mnist.yaml": "needs a download, and minutes",
    "runs/phones_fashion_mnist/4c1f...": "needs that one's run: tests/test_resume.py",
    "plots/fedstale_quadratic.py": "takes minutes: tests/test_figures.py",
}
"""Words of commands that are checked, but not run, and why."""
SHELL = [(block, words) for block in blocks("sh") for words in commands(block)]
OURS = [words for _, words in SHELL if words[0] in OWN]
SCENARIO_KEYS = {field.name for field in fields(Scenario)} | {"compare", "sweep"}


def context(words: list[str]) -> click.Context:
    """What the command line makes of words, without doing it. click's UsageError if it takes them not."""
    group = typer.main.get_command(app)
    root = click.Context(group)
    name, command, rest = group.resolve_command(root, words[1:])  # type: ignore[attr-defined]
    while isinstance(command, click.Group):
        root = click.Context(command, root, name)
        name, command, rest = command.resolve_command(root, rest)
    assert command is not None
    return command.make_context(name, rest, root)


def options(verb: str) -> set[str]:
    """All that a verb knows; of a group of verbs, those of all."""
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    several = command.commands.values() if isinstance(command, click.Group) else [command]
    return {word for one in several for each in one.params for word in each.opts} | {"--help"}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with what a checkout has, a newcomer's own files and recorded times; where runs go."""
    for room in ("scenarios", "plots", "kernels", "bench"):
        (tmp_path / room).symlink_to(ROOT / room)
    for block in blocks("python"):
        if block.file:
            (tmp_path / block.file).write_text(block.text)
    for load, name in enumerate(("idle.csv", "everything.csv")):
        seconds = np.random.default_rng(load).uniform(0.1, 0.2, (6, 4)) + load
        pd.DataFrame(seconds).to_csv(tmp_path / name, index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for block in blocks("python"):
        sys.modules.pop((block.file or "").removesuffix(".py"), None)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document) -> None:
    for link in links(document):
        target, _, anchor = link.partition("#")
        if not target.startswith("https://"):
            there = (document.parent / target).resolve() if target else document
            assert there.exists(), link
            assert not anchor or anchor in anchors(there), link


def test_every_room_is_linked_and_the_first_page_is_short() -> None:
    first = DOCUMENTS[0]
    linked = {(first.parent / link.partition("#")[0]).resolve() for link in links(first)}
    assert set(DOCUMENTS) - linked <= {first, ROOT / "fedsim" / "fleet" / "tables" / "README.md"}
    assert first.read_text().count("\n") < 250


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_lines_of_prose_are_wrapped(document) -> None:
    assert [line for line in prose(document).splitlines() if len(line) > 120 and line[0] not in "|!"] == []


def test_named_files_are_there() -> None:
    for document in DOCUMENTS:
        for word in inline(document):
            word = re.sub(r"^python -m ([\w.]+).*", lambda found: found[1].replace(".", "/") + ".py", word)
            if re.fullmatch(r"(fedsim|plots|tests|kernels|bench|scenarios)/[\w/.]+", word):
                assert (ROOT / word).exists(), (name_of(document), word)


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_the_command_line_takes_every_command(words, workplace) -> None:
    """Verb, options and their types; files that are named are there, and what they are changed to is a scenario."""
    found = context(words)
    assert all((ROOT / word).exists() for word in words if word.startswith(("scenarios/", "plots/")))
    if found.info_name in ("run", "check", "deploy") and not found.params.get("flower_app"):
        assert read(found.params["scenario"], found.params["overrides"] or [])


def test_verbs_and_options_of_the_prose_exist() -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for document in DOCUMENTS:
        for verb, rest in re.findall(r"`(?:\.venv/bin/)?fedsim (\w+)([^`]*)`", prose(document)):
            assert verb in known, (name_of(document), verb)
            assert set(re.findall(r"--[a-z-]+", rest)) <= options(verb), (name_of(document), verb)


def test_every_verb_has_a_row_and_its_options_exist() -> None:
    table = (ROOT / "fedsim" / "commands" / "README.md").read_text()
    rows = re.findall(r"^\| `fedsim (\w+)(.*)$", table, re.MULTILINE)
    assert {verb for verb, _ in rows} == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for verb, row in rows:
        assert set(re.findall(r"--[a-z-]+", row)) <= options(verb), verb


def test_what_is_installed_is_what_the_project_offers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installs = [words for _, words in SHELL if "pip" in Path(words[0]).name]
    assert installs
    for words in installs:
        given = dict(pairwise(words))
        assert (ROOT / given["-c"]).exists()
        assert set(re.findall(r"\w+", given["-e"])) <= set(project["optional-dependencies"])
    text = DOCUMENTS[0].read_text().partition("## Dependencies")[2]
    for package in project["dependencies"]:
        assert re.search(rf"^\|.*\b{re.split('[>=]', package)[0]}\b.*\|.*\|$", text, re.MULTILINE), package
    assert {extra for extra in project["optional-dependencies"] if f"`{extra}`" not in text} == set()


def test_the_command_of_the_tests_is_one_line() -> None:
    """It is what a fresh checkout is tried by, to the letter."""
    assert len(re.findall(r"^.* -m pytest$", DOCUMENTS[0].read_text(), re.MULTILINE)) == 1


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if blocks("sh", path)], ids=name_of)
def test_commands_do_what_they_say(document, workplace) -> None:
    """From the first to the last of a document, made smaller; but for those that say why not."""
    if document != DOCUMENTS[0] and any("runs/quickstart" in " ".join(words) for words in cheap(document)):
        called("run", "scenarios/quickstart.yaml", *SMALLER["scenarios/quickstart.yaml"])
    done = 0
    for words in cheap(document):
        if words[0] in OWN:
            called(*smaller(words[1:]))
        else:
            subprocess.run(["bash", "-c", shlex.join(words).replace("'>'", ">")], check=True)
        done += 1
    assert done or document == ROOT / "kernels" / "README.md"


def cheap(document: Path) -> list[list[str]]:
    """Its commands that nothing speaks against running."""
    against = set(NOT_HERE) | (set() if importlib.util.find_spec("flwr") else {"deploy", "--flower-app"})
    return [words for block in blocks("sh", document) for words in commands(block)
            if not {Path(words[0]).name, *words[1:]} & against]  # fmt: skip


def smaller(words: list[str]) -> list[str]:
    """A command as it is run here."""
    seeds = {"seed=0..4": "seed=0..1", "until.time=40 min": "until.time=6 min"}
    added = [word for name in words if words[0] in ("run", "sweep") for word in SMALLER.get(name, [])]
    return [seeds.get(word, word) for word in words] + added


def called(*words: str) -> None:
    """In this process, as the shell would call it."""
    names = [name for word in words for name in (sorted(glob.glob(word)) if word.endswith("*") else [word])]
    done = CliRunner().invoke(app, names)
    assert done.exit_code == 0, (words, done.output, done.exception)


def test_every_reason_is_needed() -> None:
    said = {word for _, words in SHELL for word in (Path(words[0]).name, *words[1:])}
    assert set(NOT_HERE) <= said
    for reason in NOT_HERE.values():
        for file in re.findall(r"tests/\w+\.py", reason):
            assert (ROOT / file).exists()


@pytest.mark.parametrize(
    "name", sorted({word for words in OURS for word in words if re.fullmatch(r"scenarios/\w+\.yaml", word)})
)
def test_named_scenarios_pass_the_check(name, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    first, *_ = read(name)
    try:
        assert foresee(assemble(first))["time_s"] > 0
    except DataMissing as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_does_what_it_shows(block, workplace) -> None:
    if "flwr" in block.text:
        pytest.importorskip("flwr", reason="Flower is not installed")
    with torch.random.fork_rng(devices=[]):
        if block.file:
            importlib.import_module(block.file.removesuffix(".py"))
        else:
            exec(block.text, {"__name__": "shown"})


def test_the_kernel_that_is_shown_keeps_all_laws(workplace) -> None:
    """In Triton's interpreter, as which Triton has to know when it is imported."""
    pytest.importorskip("triton", reason="Triton is not installed: pip install 'fedsim-lab[kernels]'")
    code = """
import json
from fedsim_kernels import OPS
from fedsim_kernels.laws import broken
from scale import OP
OPS["scale"] = OP
print(json.dumps(broken(OP, "cpu")))
"""
    paths = os.pathsep.join([str(workplace), str(ROOT), str(ROOT / "kernels")])
    environment = {**os.environ, "PYTHONPATH": paths, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_what_scenarios_are_made_of(block, monkeypatch) -> None:
    """It can be run, as far as its data are at hand."""
    monkeypatch.chdir(ROOT)
    try:
        for arm in checked_yaml(block.text):
            assemble(arm)
    except DataMissing as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_keys_of_the_prose_are_a_scenarios(document) -> None:
    for word in inline(document):
        key, _, rest = word.partition(": ")
        if key in SCENARIO_KEYS and rest.startswith("{") and rest.endswith("}") and not re.search(r"\.\.\.|: }", rest):
            assert checked_yaml(word)


def checked_yaml(text: str) -> list[Arm]:
    """A whole scenario, or keys that fit into the first one; of a fleet file, whose app is elsewhere, no arms."""
    shown = YamlFile(text, "shown").data
    if "app" in shown:
        pytest.importorskip("flwr", reason="Flower is not installed")
        from fedsim.flower.keys import FleetFile

        assert checked(FleetFile, shown)
        return []
    server = {} if {"peers", "coding"} & set(shown) else {"aggregator": "fedavg"}
    groups = {key: PLAIN[key] | shown[key] for key in ("local", "evaluate") if key in shown}
    if "epochs" in groups.get("local", {}):
        groups["local"].pop("steps")
    return read(PLAIN | server | shown | groups)
