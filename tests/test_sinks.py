"""Traces for Perfetto, by the format's rules; and trackers, where they are installed, else by their calls."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from types import ModuleType, SimpleNamespace

import pytest
from test_waits import WAYS

import fedsim
from fedsim.__main__ import main
from fedsim.sinks import TRACKERS, written
from fedsim.sinks.perfetto import CLIENTS, COUNTERS, SERVERS, events
from fedsim.spans import spans

LEAVING = WAYS["buffer"] | {
    "fleet": WAYS["buffer"]["fleet"] | {"availability": {"markov": {"on": "2 s", "off": "1 s"}}, "drop": 0.2}
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    trained = WAYS["rounds"] | {"executor": "stacked"}
    return fedsim.run(trained, out=tmp_path_factory.mktemp("runs"), picture=False)


def command(monkeypatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["fedsim", "trace", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.mark.parametrize("way", [*WAYS, "leaving"])
def test_it_keeps_the_rules_of_the_format(tmp_path, way) -> None:
    run = fedsim.run({**WAYS, "leaving": LEAVING}[way], out=tmp_path, picture=False)
    [target] = written(run)
    found = json.loads(target.read_text())
    assert found["displayTimeUnit"] == "ms"
    tracks, pending, named = defaultdict(list), {}, set()
    for event in found["traceEvents"]:
        assert event["ph"] in "MXbeiC"
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "M":
            named.add((event["pid"], event["tid"]))
            continue
        assert isinstance(event["ts"], int)
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            tracks[event["pid"], event["tid"]].append(event)
        if event["ph"] == "b":
            assert event["id"] not in pending
            pending[event["id"]] = event
        if event["ph"] == "e":
            began = pending.pop(event["id"])
            assert began["ts"] <= event["ts"]
            assert (began["cat"], began["name"]) == (event["cat"], event["name"])
        if event["ph"] == "i":
            assert event["s"] == "t"
    assert not pending
    assert set(tracks) <= named
    for track in tracks.values():
        nested(track)


def nested(track: list[dict]) -> None:
    """In the order of the file every span lies within those that are open, or after them."""
    outer: list[int] = []
    last = 0
    for event in track:
        begin, end = event["ts"], event["ts"] + event["dur"]
        assert begin >= last
        last = begin
        while outer and outer[-1] <= begin:
            outer.pop()
        assert not outer or end <= outer[-1]
        outer.append(end)


def test_spans_jobs_and_waits_are_all_there(tmp_path) -> None:
    run = fedsim.run(LEAVING, out=tmp_path, picture=False)
    every, known = list(events(run)), spans(run.trace)
    whole = [event for event in every if event["ph"] == "X" and event["pid"] == CLIENTS]
    for phase in ("download", "train", "upload"):
        assert sum(event["name"] == phase for event in whole) == (known.phase == phase).sum()
    jobs = [event for event in whole if event["name"].startswith("from version")]
    assert len(jobs) == (run.trace.kind == "start").sum()
    assert (
        sum(event["ph"] == "i" and event["name"] == "lost" for event in every) == (run.trace.kind == "lost").sum() > 0
    )
    for client in range(6):
        own = [event for event in whole if event["tid"] == client + 2 and event not in jobs]
        trace = run.trace[run.trace.client == client]
        came, went = (trace.time[trace.kind == kind].sum() for kind in ("join", "leave"))
        here = (
            went - came + (run.trace.time.max() if (trace.kind == "join").sum() > (trace.kind == "leave").sum() else 0)
        )
        assert sum(event["dur"] for event in own) == here  # whoever is there works or waits


def test_counters_end_where_the_run_does(run) -> None:
    counters = defaultdict(list)
    for event in events(run):
        if event["ph"] == "C":
            assert event["pid"] == COUNTERS
            counters[event["name"]].append(event["args"][event["name"]])
    assert counters["version"] == [1, 2, 3, 4, 5, 6]
    assert min(counters["bytes in flight"]) == counters["bytes in flight"][-1] == 0
    assert max(counters["bytes in flight"]) == 3 * 4 * 650
    servers = [event for event in events(run) if event["ph"] == "X" and event["pid"] == SERVERS]
    assert [event["args"]["cause"] for event in servers] == ["arrival"] * 6


def test_from_the_command_line(run, tmp_path, monkeypatch, capsys) -> None:
    assert command(monkeypatch, str(run.path), "--out", str(tmp_path / "x.json")) == 0
    assert json.loads((tmp_path / "x.json").read_text())["traceEvents"]
    assert command(monkeypatch, str(run.path), "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"paths": [str(run.path / "trace.json")]}
    faults = {
        "there is no such tracker; did you mean wandb": ["--to", "wandbb", "x"],
        "expected one of them": ["--out", "x", "--to", "wandb", "x"],
    }
    for sentence, options in faults.items():
        assert command(monkeypatch, str(run.path), *options) == 2
        assert sentence in capsys.readouterr().err
    compared = fedsim.run(WAYS["rounds"] | {"compare": [{"seed": 0}, {"seed": 1}]}, out=tmp_path, picture=False)
    assert [path.name for path in written(compared)] == ["trace.json"] * 2
    assert command(monkeypatch, str(compared.path), "--out", "x") == 2


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboard.summary"), ("mlflow", "mlflow.tracking"),
                                              ("wandb", "wandb")])  # fmt: skip
def test_what_is_not_installed_is_named(run, name, module, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert command(monkeypatch, str(run.path), "--to", name, str(tmp_path)) == 4
    assert "fedsim-lab[trackers]" in capsys.readouterr().err


class Calls(list):
    """A module that notes how it is called."""

    def __getattr__(self, name: str):
        def call(*arguments, **named):
            self.append((name, arguments, named))
            return self

        return call


def pretended(monkeypatch, name: str, **parts) -> None:
    module = ModuleType(name)
    vars(module).update(parts)
    monkeypatch.setitem(sys.modules, name, module)


def test_tensorboard_is_told_of_versions_and_virtual_time(run, tmp_path, monkeypatch) -> None:
    calls = Calls()
    pretended(monkeypatch, "tensorboard")
    pretended(monkeypatch, "tensorboard.summary", Writer=calls.Writer)
    assert list(written(run, to=("tensorboard", tmp_path))) == [tmp_path]
    assert calls[0] == ("Writer", (str(tmp_path / run.label),), {})
    told = [(args, named["wall_time"]) for name, args, named in calls if name == "add_scalar" and args[0] == "accuracy"]
    rows = run.metrics
    assert told == [(("accuracy", row.accuracy, row.version), row.time_s) for row in rows.itertuples()]
    assert calls[-1][0] == "close"


def test_mlflow_is_told_of_parameters_and_milliseconds(run, tmp_path, monkeypatch) -> None:
    calls = Calls()
    info = SimpleNamespace(run_id="r1")
    client = Calls()
    monkeypatch.setattr(Calls, "create_run", lambda self, *a, **k: SimpleNamespace(info=info), raising=False)
    monkeypatch.setattr(Calls, "get_experiment_by_name", lambda self, name: None, raising=False)
    pretended(monkeypatch, "mlflow")
    pretended(monkeypatch, "mlflow.tracking", MlflowClient=lambda **named: calls.append(named) or client)
    list(written(run, to=("mlflow", tmp_path)))
    assert calls == [{"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"}]
    assert ("log_param", ("r1", "local.steps", "2"), {}) in client
    last = run.metrics.iloc[-1]
    assert ("log_metric", ("r1", "accuracy", last.accuracy),
            {"timestamp": round(last.time_s * 1000), "step": 6}) in client  # fmt: skip
    assert client[-1] == ("set_terminated", ("r1",), {"status": "FINISHED"})


def test_wandb_stays_offline(run, tmp_path, monkeypatch) -> None:
    calls = Calls()
    pretended(monkeypatch, "wandb", init=calls.init)
    list(written(run, to=("wandb", tmp_path / "new")))
    name, _, named = calls[0]
    assert (name, named["mode"], named["dir"]) == ("init", "offline", str(tmp_path / "new"))
    assert named["config"]["aggregator.fedavg.cohort"] == "3"
    logged = [args[0] for name, args, _ in calls if name == "log"]
    assert [row["version"] for row in logged] == run.metrics.version.tolist()
    assert logged[-1]["accuracy"] == run.metrics.accuracy.iloc[-1]
    assert calls[-1][0] == "finish"


def test_tensorboard_reads_it_back(run, tmp_path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    list(written(run, to=("tensorboard", tmp_path)))
    found = accumulator.EventAccumulator(str(tmp_path / run.label), {"tensors": 0}).Reload()
    told = [(event.step, event.wall_time) for event in found.Tensors("accuracy")]
    assert told == [(row.version, row.time_s) for row in run.metrics.itertuples()]


def test_mlflow_reads_it_back(run, tmp_path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    list(written(run, to=("mlflow", tmp_path / "store")))
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/store/mlflow.db")
    [found] = client.search_runs([client.get_experiment_by_name("fedsim").experiment_id])
    assert found.data.params["local.steps"] == "2"
    history = client.get_metric_history(found.info.run_id, "accuracy")
    assert [one.value for one in history] == run.metrics.accuracy.tolist()


def test_wandb_writes_offline(run, tmp_path) -> None:
    pytest.importorskip("wandb.sdk")
    list(written(run, to=("wandb", tmp_path)))
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_there_are_three_trackers() -> None:
    assert list(TRACKERS) == ["tensorboard", "mlflow", "wandb"]
