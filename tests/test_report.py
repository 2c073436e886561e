"""The page about runs: what it says, that it is one file which asks for nothing, and that it works in a browser."""

from __future__ import annotations

import json
import re
import sys
from base64 import b64decode

import numpy as np
import pytest
from browser import CHROMIUM, browser
from test_waits import BUFFERED, CODED, EDGES, PEERS, SERVED

import fedsim
from fedsim.__main__ import main
from fedsim.bill import Rates
from fedsim.errors import ScenarioError, Stalled
from fedsim.report import activity, page, write_report
from fedsim.report.curves import GRID, curves
from fedsim.report.explained import Explained
from fedsim.report.view import View
from fedsim.spans import presence, spans
from fedsim.traffic import Federation
from fedsim.trials import algorithms, gathered
from fedsim.waits import Crowd, waits

TRAINED = SERVED | {"executor": "stacked", "evaluate": {"every": "100 ms", "clients": True, "train": True}}
seen = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to look at the page with")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return fedsim.run(TRAINED, out=tmp_path_factory.mktemp("runs"), picture=False)


def view(run) -> View:
    return View(run, Rates())


def blocks(text: str) -> list:
    """All data that a page holds."""
    return [json.loads(one) for one in re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)]


def titles(run) -> list[str]:
    return [section.title for section in view(run).sections()]


def section(run, title):
    return next(one for one in view(run).sections() if one.title == title)


ALL = ["At a glance", "What was learned", "The fleet in time", "Where time went", "Staleness and participation",
       "Network", "Clients", "Bill", "Receipt"]  # fmt: skip


def test_a_run_has_all_sections(trained) -> None:
    assert titles(trained) == ALL
    facts = dict(section(trained, "At a glance").facts)
    assert facts["versions"] == "6"
    assert facts["accuracy"] == f"{trained.metrics.accuracy.iloc[-1]:.4f}"


@pytest.mark.parametrize("base", [BUFFERED, EDGES, CODED, PEERS], ids=["buffer", "edges", "coded", "peers"])
def test_without_training_too(tmp_path, base) -> None:
    run = fedsim.run(base, out=tmp_path, picture=False)
    assert titles(run) == [title.replace("learned", "heard") for title in ALL]
    assert len(blocks(write_report([run.path]).read_text())) > 8


def test_masked_rounds_name_nobody(tmp_path) -> None:
    masked = {"aggregator": {"fedavg": {"cohort": 3, "weights": "uniform"}}, "wire": {"secure": {"bound": 1.0}}}
    run = fedsim.run(SERVED | masked, out=tmp_path, picture=False)
    time = section(run, "Where time went")
    assert "no client is named" in time.note
    assert not time.tables
    names = [column.name for column in section(run, "Clients").tables[0].columns]
    assert "waited for" not in names
    assert len(blocks(write_report([run.path]).read_text())) > 8


def test_the_clients_table_is_what_the_trace_says(trained) -> None:
    [table] = section(trained, "Clients").tables
    names = [column.name for column in table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in table.rows]
    assert [row["client"] for row in rows] == list(range(6))
    trace = trained.trace
    assert [row["heard"] for row in rows] == [((trace.kind == "arrive") & (trace.client == i)).sum() for i in range(6)]
    assert sum(row["down"] for row in rows) == trained.metrics.bytes_down.iloc[-1]
    assert sum(row["up"] for row in rows) == trained.metrics.bytes_up.iloc[-1]
    known = trained.clients.groupby("client").train_accuracy.last()
    assert [row["accuracy"] for row in rows] == known.tolist()


def test_sentences_name_who_shared_the_link(trained) -> None:
    trace = trained.trace
    crowd = Crowd(spans(trace), trained.links, Federation.of(trained.scenario))
    told = Explained(waits(trace), spans(trace), crowd, peers=False)
    said = [row[-1] for row in told.table("version").rows]
    assert len(said) == 6
    for sentence, wait in zip(said, told.waits.to_dict("records"), strict=True):
        assert sentence.startswith(f"version {wait['version']} waited ")
        assert f"client {wait['client']}'s " in sentence
    shared = [sentence for sentence in said if "on a link shared with" in sentence]
    assert shared
    assert all("; alone it takes " in sentence for sentence in shared)


def test_sentences_about_what_is_no_arrival(trained) -> None:
    told = Explained(waits(trained.trace), spans(trained.trace), None, peers=False)
    wait = {"version": 2, "since": 0, "time": 8_000_000, "client": 0, "server": -1}
    assert told.sentence(wait | {"cause": "loss"}, "version") == "version 2 waited 8.0 s until client 0 was lost"
    clock = "version 2 waited 8.0 s until its time was up, not for an arrival"
    assert told.sentence(wait | {"cause": "clock"}, "version") == clock
    assert told.sentence(wait | {"cause": "training"}, "round") == "round 2 waited 8.0 s for client 0's own work"


def test_rates_change_the_bill_and_are_told_apart(trained) -> None:
    cheap, dear = (next(one for one in View(trained, rates).sections() if one.title == "Bill")
                   for rates in (Rates(), Rates.of(["gb_price=1000"])))  # fmt: skip
    prices = [{row[0]: row[1:] for row in bill.tables[0].rows} for bill in (cheap, dear)]
    assert prices[0]["price of the traffic"] != prices[1]["price of the traffic"]
    assert [price["price of the traffic"][1] for price in prices] == ["synthetic", "given"]
    assert "gb_price 1000 (given)" in dear.note


def test_seeds_of_a_grid_are_one_line_with_its_interval(tmp_path) -> None:
    axes = {"way": {"rounds": {}, "buffer": {"aggregator": BUFFERED["aggregator"]}}, "seed": [0, 1, 2]}
    run = fedsim.run(SERVED | {"compare": axes}, out=tmp_path, picture=False)
    chart = curves(algorithms(gathered([run.path])), "updates")[0]
    drawn = [trace for trace in chart.figure["data"] if trace.get("name")]
    assert [trace["name"] for trace in drawn] == ["rounds", "buffer"]
    x, y = (np.frombuffer(b64decode(drawn[0][axis]["bdata"])) for axis in "xy")
    assert len(x) == GRID
    assert len(chart.figure["data"]) == 4
    last = min(arm.metrics.time_s.max() for arm in run.arms[:3])
    assert x[-1] == pytest.approx(last)
    expected = [arm.metrics[arm.metrics.time_s <= last].updates.iloc[-1] for arm in run.arms[:3]]
    assert y[-1] == pytest.approx(sum(expected) / 3)
    text = write_report([run.path]).read_text()
    assert '<details class="run">' in text
    assert "bands their 95 % intervals" in text


def test_of_many_runs_only_the_comparison_is_shown(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(page, "MOST_RUNS", 1)
    run = fedsim.run(SERVED | {"compare": [{"seed": 0}, {"seed": 1}]}, out=tmp_path, picture=False)
    text = write_report([run.path]).read_text()
    assert "Of 2 runs only the comparison is shown" in text
    assert '<details class="run">' not in text


def test_failed_and_unfinished_runs_say_so_on_top(tmp_path) -> None:
    with pytest.raises(Stalled):
        fedsim.run(SERVED | {"fleet": SERVED["fleet"] | {"drop": {"upload": 1.0}}}, out=tmp_path, picture=False)
    [failed] = (tmp_path / "scenario").iterdir()
    text = write_report([failed]).read_text()
    assert 'class="trouble failed"' in text
    assert "local trainings led to no server step" in text
    run = fedsim.run(SERVED, out=tmp_path, picture=False)
    for name in ("receipt.json", "links.parquet", "metrics.csv"):
        (run.path / name).unlink()
        assert 'class="trouble unfinished"' in write_report([run.path]).read_text()
    for part in (run.path / "trace.parquet").iterdir():
        part.unlink()
    assert titles(fedsim.load(run.path)) == ["At a glance", "Receipt"]


def test_of_many_spans_those_of_wanted_clients_come_first(trained, monkeypatch) -> None:
    monkeypatch.setattr(activity, "MOST_SPANS", 7)
    drawn = activity.timeline(spans(trained.trace), range(6), [4, 99], trained.metrics.time_s.max())
    assert drawn["kept"] < drawn["clients"] == 6
    assert 4 in drawn["first"]
    held = np.frombuffer(b64decode(drawn["client"]), "<i4")
    assert set(held) == set(drawn["first"])
    assert (held == 4).sum() == (spans(trained.trace).client == 4).sum()


def test_counts_add_up_to_all_that_was_done(trained) -> None:
    known, seconds = spans(trained.trace), trained.trace.time.max() / 1e6
    chart = activity.counts(known, presence(trained.trace), seconds)
    for trace in chart.figure["data"]:
        mean = np.frombuffer(b64decode(trace["y"]["bdata"])).mean()
        own = known[known.phase == trace["name"]]
        done = (own.end - own.begin).sum() / 1e6
        assert mean * seconds == pytest.approx(done if trace["name"] != "waits" else 6 * seconds - (
            known.end - known.begin).sum() / 1e6)  # fmt: skip


EVIL = '</script><script>window.evil = 1</script><img src=x onerror="window.evil = 2">&amp;{{ 7 * 7 }}'


def test_what_a_scenario_says_is_text_and_nothing_else(tmp_path) -> None:
    run = fedsim.run(SERVED, out=tmp_path, picture=False)
    said = run.path / "scenario.yaml"
    said.write_text(said.read_text() + f"folder: {json.dumps(EVIL)}\n")
    (run.path / "receipt.json").write_text(json.dumps({"versions": {EVIL: EVIL}}))
    text = write_report([run.path], tmp_path / "page.html").read_text()
    assert "<script>window.evil" not in text
    assert [f"versions {EVIL}", EVIL] in [row for block in blocks(text) for row in block.get("rows", [])]
    (run.path / "receipt.json").unlink()
    (run.path / "failure.json").write_text(json.dumps({"type": "RunFailed", "message": EVIL}))
    text = write_report([run.path], tmp_path / "page.html").read_text()
    assert "window.evil" in text
    assert "<script>window.evil" not in text
    assert "<img src=x" not in text
    assert "{{ 7 * 7 }}" in text


def test_it_is_one_file_that_asks_for_nothing(trained) -> None:
    text = write_report([trained.path]).read_text()
    markup = re.sub(r"<(script|style)>.*?</\1>", "", text, flags=re.DOTALL)
    assert text.count("<script>") == 2
    assert not re.search(r"\b(src|href)=", markup)
    assert "default-src 'none'" in markup


def test_where_it_is_written_and_what_is_refused(trained, tmp_path, monkeypatch, capsys) -> None:
    assert write_report([trained.path]) == trained.path / "report.html"
    other = fedsim.run(BUFFERED, out=tmp_path, picture=False)
    with pytest.raises(ScenarioError, match="--out: where to write a report on 2 run folders"):
        write_report([trained.path, other.path])
    target = tmp_path / "both.html"
    monkeypatch.setattr(sys, "argv", ["fedsim", "report", str(trained.path), str(other.path), "--out", str(target),
                                      "--rate", "gb_price=2", "--json"])  # fmt: skip
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(target)}
    assert target.exists()
    for arguments, code, sentence in (([str(tmp_path)], 2, "is not a run folder"),
                                      ([str(trained.path), "--rate", "gb=2"], 2, "there is no rate 'gb'")):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["fedsim", "report", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == code
        assert sentence in capsys.readouterr().err


def test_without_plotly_it_says_what_to_install(trained, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    monkeypatch.setattr(sys, "argv", ["fedsim", "report", str(trained.path)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 4
    assert "fedsim-lab[report]" in capsys.readouterr().err


@seen
def test_in_a_browser(trained, tmp_path) -> None:
    """Charts are there, search works, nothing complains, nothing is fetched; on a phone nothing is too wide."""
    compared = fedsim.run(TRAINED | {"compare": [{"seed": 1}, {"seed": 2}]}, out=tmp_path, picture=False)
    tag = '<img src=x onerror="window.evil = 1">'
    evil = fedsim.run(SERVED | {"compare": {"way": {tag: {}, "other": {"seed": 4}}}}, out=tmp_path, picture=False)
    with browser() as page:
        page.open(write_report([trained.path]))
        charts = page.run("document.querySelectorAll('figure .chart').length")
        assert charts >= 10
        assert page.run("document.querySelectorAll('.chart .main-svg').length") >= charts
        assert page.run("document.querySelectorAll('.timeline canvas').length") > 0
        rows = "[...document.querySelectorAll('.table')].at(-3).querySelectorAll('tr').length - 1"
        assert page.run(rows) == 6
        page.run("[...document.querySelectorAll('.table')].at(-3).querySelector('input').id = 'wanted'")
        page.type("#wanted", "2-4")
        assert page.run(rows) == 3
        page.type("#wanted", "nobody")
        assert page.run(rows) == 0
        page.type(".timeline input", "3")
        assert page.run("document.querySelector('.timeline .count').textContent") == "1 of 6 clients"
        page.open(write_report([compared.path]), width=390, height=844)
        page.run("document.querySelectorAll('details').forEach(one => one.open = true)")
        page.run("new Promise(done => setTimeout(done, 0))")
        assert page.run("document.querySelectorAll('.run .chart .main-svg').length") > 20
        assert page.run("document.documentElement.scrollWidth") <= 390
        drags = "[...document.querySelectorAll('.timeline .chart')].map(one => one.layout.dragmode)"
        assert page.run(drags) == [False, False]  # a finger scrolls the page
        page.open(write_report([evil.path]))
        assert page.run("window.evil === undefined && document.querySelectorAll('figure img').length === 0")
        assert page.complaints == []
        assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)
