"""The verb `figure`: scripts are found without running them, run in processes of their own, and shown with verdicts."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from small import scenario
from test_experiment import command

from fedsim.errors import ScenarioError
from fedsim.gallery import PAGE, chosen, scripts

PLOTS = Path(__file__).parent.parent / "plots"

SCRIPT = """
import sys
from figure import Figure, Verdict, plt

FIGURE = Figure("On <{name}>", "Setting: ours & nobody's. " "Full: never.")
FIGURE.judge(Verdict("it holds", "PASS", "1 > 0"), Verdict("so does <this>", "{outcome}", str(FIGURE.quick)))
if "{outcome}" == "ERROR":
    raise ZeroDivisionError
FIGURE.end(lambda: plt.figure())
"""


@pytest.fixture
def plots(tmp_path) -> Path:
    """Two figures of one paper and one of another; and what they share, which is none."""
    (folder := tmp_path / "plots").mkdir()
    (folder / "figure.py").write_text((PLOTS / "figure.py").read_text())
    for name, outcome in {"ant_food": "PASS", "ant_queen": "INCONCLUSIVE", "bee": "FAIL", "cow": "ERROR"}.items():
        (folder / f"{name}.py").write_text(SCRIPT.format(name=name, outcome=outcome))
    return folder


def test_every_figure_of_ours_is_found_and_says_whose_setting_it_is() -> None:
    found = scripts(PLOTS)
    texts = {path.stem: path.read_text() for path in PLOTS.glob("*.py")}
    assert [one.name for one in found] == sorted(name for name, text in texts.items() if "\nFIGURE = Figure(" in text)
    assert len(found) > 30
    for one in found:
        assert one.setting.startswith("Setting: ")
        assert one.title


def test_listing_waits_for_no_torch() -> None:
    code = "import sys; from fedsim.gallery import *; scripts(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code, str(PLOTS)], check=False).returncode == 0


RUNS = """
import sys
from figure import Figure, above, plt

FIGURE = Figure("Runs", "Setting: ours. Full: never.")
if __name__ == "__main__":
    runs = FIGURE.runs("tiny.yaml", {seed: [f"seed={seed}"] for seed in FIGURE.seeds(2)})
    runs["grid"] = FIGURE.grid("grid.yaml")
    FIGURE.judge(above("it learns", [runs[0].metrics.accuracy.iloc[-1]], 0.0))
    FIGURE.end(lambda: plt.figure())
"""


def test_runs_of_last_time_are_drawn_again_and_those_of_others_are_not(tmp_path) -> None:
    (folder := tmp_path / "plots").mkdir()
    (folder / "figure.py").write_text((PLOTS / "figure.py").read_text().replace('parent / "scenarios"', "parent"))
    (folder / "runs.py").write_text(RUNS)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(scenario("server fedavg")))
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(scenario("server fedavg") | {"sweep": {"seed": [0, 1]}}))

    def told(*options: str) -> str:
        words = [sys.executable, folder / "runs.py", "--out", tmp_path / "out", "--workers", "1", *options]
        return (done := subprocess.run(words, capture_output=True, text=True, check=False)).stdout + done.stderr

    assert "expected these runs" in told("--quick", "--redraw")
    first = told("--quick")
    assert "PASS it learns" in first
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")}
    assert first.splitlines()[-1] == told("--quick", "--redraw").splitlines()[-1]
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").rglob("*")}
    assert "expected these runs" in told("--redraw")  # of two seeds


def test_figures_are_asked_for_by_name_paper_or_all(plots) -> None:
    def names(*asked: str) -> list[str]:
        return [one.name for one in chosen(scripts(plots), asked)]

    assert names("ant") == ["ant_food", "ant_queen"]
    assert names("bee", "ant_food") == ["ant_food", "bee"]
    assert names("all") == ["ant_food", "ant_queen", "bee", "cow"]
    with pytest.raises(ScenarioError, match="no figure or paper 'ant_quen'; did you mean ant_queen"):
        names("ant_quen")
    with pytest.raises(ScenarioError, match="no figures here"):
        scripts(plots.parent)


class Page(HTMLParser):
    """What a page shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not any("//" in (value or "") for _, value in attrs)
        if tag == "img":
            self.images.append(str(dict(attrs)["src"]))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_verb(plots, tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "figures"
    where = "--plots", str(plots), "--out", str(out)
    assert command(monkeypatch, "figure", "ant", "--quick", *where) == 0
    assert "ant_queen: 1 INCONCLUSIVE, 1 PASS" in capsys.readouterr().out
    page = Page((out / PAGE).read_text())
    assert page.images == ["ant_food.png", "ant_queen.png"]
    assert all((out / name).exists() for name in page.images)
    assert {"On <ant_food>", "Setting: ours & nobody's. Full: never.", " so does <this>: True"} <= set(page.words)
    (out / "cow.json").write_text(json.dumps({"verdicts": []}))
    assert command(monkeypatch, "figure", "bee", "cow", "--json", *where) == 1
    bee, cow = json.loads(capsys.readouterr().out)["figures"]
    assert bee["counts"] == {"PASS": 1, "FAIL": 1}
    assert cow["counts"] == {"ERROR": 1}, "what an earlier run has left does not count"
    assert "ZeroDivisionError" in (out / "cow.log").read_text()
    assert command(monkeypatch, "figure", "ox", *where) == 2
    assert command(monkeypatch, "figure", *where) == 0
    assert "ant_queen" in capsys.readouterr().out
