"""The law of the house, and its habits: who may import whom, what nobody does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "fedsim").rglob("*.py"))

TIME = [
    "clock",
    "carrier",
    "simulation",
    "server",
    "abreast",
    "secure",
    "cell",
    "workload",
    "downlink",
    "edges",
    "node",
    "swarm",
    "mixing",
    "progress",
    "probed",
    "holders",
    "readings",
    "checkpoints",
    "keeping",
    "network",
    "mixing",
    "fleet",
    "faults",
    "coding",
    "coded",
    "executors",
    "roster",
    "selection",
    "staleness",
    "stalling",
    "trace",
    "units",
    "rng",
    "errors",
    "results",
    "folder",
    "damage",
    "picture",
    "style",
    "traffic",
    "spans",
    "waits",
    "bill",
    "trials",
    "reaching",
    "significance",
    "sinks",
    "calibration",
    "layout",
    "drawing",
    "terminal",
    "schema",
    "yamlfile",
]
NUMBERS = [
    "training",
    "twin",
    "stack",
    "coding",
    "encoder",
    "learner",
    "drift",
    "state",
    "evaluation",
    "losses",
    "gradients",
    "models",
    "vector",
    "data",
    "aggregators",
    "answers",
    "peers",
    "objectives",
    "personal",
    "own_models",
    "replaying",
    "sources",
    "steps",
    "growth",
    "combiners",
    "probes",
    "defences",
    "attacks",
    "optimizers",
    "wire",
]
NEVERS = {"torch": TIME, "simpy": NUMBERS, "flwr": TIME + NUMBERS}
FORBIDDEN = [
    "import pickle",
    "allow_pickle=True",
    "torch.manual_seed",
    "np.random.seed",
    "random.seed(",
    "yaml.load(",
    "torch.load(",
]
ABOVE_ALL = {
    "contest",
    "report",
    "scenario",
    "describe",
    "tune",
    "experiment",
    "conduct",
    "together",
    "sweeping",
    "flower",
    "card",
    "terminal",
    "repeating",
    "receipt",
    "commands",
    "__main__",
    "__init__",
}


def name_of(path: Path) -> str:
    """`fedsim/network/fluid.py` -> `network.fluid`."""
    return ".".join(path.relative_to(ROOT / "fedsim").with_suffix("").parts)


def imports(path: Path) -> Iterator[str]:
    """What a file imports when it runs; what only a type checker reads does not count."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path: Path) -> set[str]:
    """The modules of fedsim that a file imports, by the names of `name_of`."""
    known = {name_of(source).removesuffix(".__init__") for source in SOURCES}
    own = name_of(path).removesuffix(".__init__")
    return ({name.removeprefix("fedsim.") for name in imports(path)} & known) - {own}


def reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    seen, todo = set(), [start]
    while todo:
        for name in graph.get(todo.pop(), ()):
            if name not in seen:
                seen.add(name)
                todo.append(name)
    return seen


GRAPH = {name_of(path).removesuffix(".__init__"): ours(path) for path in SOURCES}
FOREIGN = {name_of(path).removesuffix(".__init__"): {name.split(".")[0] for name in imports(path)} for path in SOURCES}


@pytest.mark.parametrize("library", NEVERS)
def test_nevers_directly_and_through_others(library) -> None:
    rooms = {name for name in GRAPH if name.split(".")[0] in NEVERS[library]}
    assert len(rooms) >= 6
    for room in rooms:
        for module in {room} | reached(room, GRAPH):
            assert library not in FOREIGN[module], f"{room} reaches {library} through {module}"


def test_nothing_below_imports_the_scenario() -> None:
    for name, others in GRAPH.items():
        if name.split(".")[0] not in ABOVE_ALL:
            assert not {other.split(".")[0] for other in others} & ABOVE_ALL, name


def test_there_is_no_circle() -> None:
    for name in GRAPH:
        assert name not in reached(name, GRAPH), f"{name} imports itself in the end"


def test_figures_read_runs_and_how_to_look_and_nothing_else() -> None:
    for path in (ROOT / "plots").glob("*.py"):
        inner = {name for name in imports(path) if name.startswith("fedsim")}
        rooms = ("fedsim", "fedsim.results", "fedsim.intervals", "fedsim.scorecard", "fedsim.continual", "fedsim.style")
        assert all(name.startswith(rooms[1:]) or name == rooms[0] for name in inner), path


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_habits(path) -> None:
    text = path.read_text()
    for forbidden in FORBIDDEN:
        assert forbidden not in text, forbidden
    assert path.stem not in ("utils", "helpers", "common", "misc")
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is too long"


def test_reading_results_and_printing_help_wait_for_no_torch() -> None:
    code = "import sys, fedsim; fedsim.load; import fedsim.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check"]], ids=" ".join)
def test_ruff_is_content(command) -> None:
    done = subprocess.run([sys.executable, "-m", *command, "."], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
