"""Checkpoints on disk, and the verbs around them: damage is seen, the previous one is used, nobody is surprised."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kills import Killed, Mortal, among_peers, by_code, killed_at, of, outcome, run, whole
from safetensors.numpy import save
from test_edges import DIGITS as EDGES

import fedsim.__main__
from fedsim import conduct, experiment, keeping, repeating, scenario
from fedsim.aggregators import FedBuff
from fedsim.checkpoints import KEPT, Checkpoint, Checkpoints, Damaged, read, sha256
from fedsim.data.images import Digits
from fedsim.errors import Interrupted, RunFailed, ScenarioError
from fedsim.evaluation import Evaluator
from fedsim.selection import Uniform
from fedsim.trace import Trace
from fedsim.training import Trainer

BASE = of("fedbuff")


def cut(out: Path, base: dict, monkeypatch, *ends: int) -> Path:
    """A run that was killed at the last of these turns, with a checkpoint at each."""

    class Patient(Mortal):
        def look(self, progress) -> None:
            if progress.turns in ends[:-1]:
                self.write()
            super().look(progress)

    killed_at(ends[-1:], monkeypatch)
    monkeypatch.setattr(conduct, "Keeper", Patient)
    with pytest.raises(Killed):
        run(out, base)
    killed_at((), monkeypatch)
    return out


# Files ----------------------------------------------------------------------------------------------------------------


def some_checkpoint(turns: int) -> Checkpoint:
    return Checkpoint({"turns": turns}, {"a": np.arange(5.0), "b": np.array(3), "c": np.zeros((0, 2), np.float32)})


def test_what_is_written_is_read(tmp_path) -> None:
    kept = Checkpoints(tmp_path / "deep" / "checkpoint")
    kept.write(some_checkpoint(7))
    found, faults = kept.latest()
    assert found is not None
    assert (found.turns, faults) == (7, [])
    for name, array in some_checkpoint(7).arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)


def test_two_are_kept_the_newest_first(tmp_path) -> None:
    kept = Checkpoints(tmp_path)
    for turns in (3, 100_000, 20):
        kept.write(some_checkpoint(turns))
    assert [int(path.name[:12]) for path in kept.files()] == [100_000, 20]
    assert len(list(tmp_path.iterdir())) == KEPT


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, -1])
def test_one_that_was_cut_off_is_passed_over_for_the_one_before(tmp_path, length) -> None:
    kept = Checkpoints(tmp_path)
    kept.write(some_checkpoint(3))
    kept.write(some_checkpoint(4))
    newest = kept.files()[0]
    newest.write_bytes(newest.read_bytes()[:length])
    found, [fault] = kept.latest()
    assert found is not None
    assert found.turns == 3
    assert "000000000004: it is not what its name says: cut off, or changed" in fault


def test_one_flipped_bit_anywhere_is_seen(tmp_path) -> None:
    kept = Checkpoints(tmp_path)
    kept.write(some_checkpoint(3))
    [path] = kept.files()
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Damaged, match="it is not what its name says"):
            read(path)


@settings(max_examples=200, deadline=None)
@given(data=st.one_of(
    st.binary(max_size=200),
    st.builds(lambda facts: save({}, {"facts": facts}), st.text(max_size=50)),
    st.builds(lambda facts: save({}, {"facts": json.dumps(facts)}),
              st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
                  st.sampled_from(["turns", "x"]), inner), max_leaves=5)),
    st.builds(lambda header: len(header).to_bytes(8, "little") + header, st.binary(max_size=60)),
))  # fmt: skip
def test_any_bytes_are_refused_in_a_sentence(tmp_path_factory, data) -> None:
    """Even under a name that fits them."""
    path = tmp_path_factory.mktemp("fuzz") / f"{3:012d}-{sha256(data).hexdigest()}.safetensors"
    path.write_bytes(data)
    said = fault_of(path)
    assert said is None or "it is no checkpoint" in said
    assert said is None or "\n" not in said


def fault_of(path: Path) -> str | None:
    """What is wrong with it."""
    try:
        read(path)
    except Damaged as fault:
        return str(fault)
    return None


def test_what_was_not_finished_is_no_checkpoint(tmp_path, monkeypatch) -> None:
    kept = Checkpoints(tmp_path)
    kept.write(some_checkpoint(3))

    def power_cut(handle: int) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(OSError, match="gone"):
        kept.write(some_checkpoint(4))
    found, faults = kept.latest()
    assert found is not None
    assert (found.turns, faults) == (3, [])


# Runs -----------------------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_named_and_the_previous_used(tmp_path, monkeypatch) -> None:
    found, turns = whole(tmp_path / "whole", BASE, monkeypatch)
    out = cut(tmp_path / "cut", BASE, monkeypatch, turns // 3, turns // 2)
    newest = Checkpoints(out / "checkpoint").files()[0]
    newest.write_bytes(newest.read_bytes()[:1000])
    said: list[str] = []
    again = run(out, BASE, resume=said.append)
    assert outcome(again) == outcome(found)
    assert said == [f"checkpoint {turns // 2:012d}: it is not what its name says: cut off, or changed, at 1000 bytes; "
                    "it is not used"]  # fmt: skip


def test_without_a_checkpoint_it_begins_anew(tmp_path, monkeypatch) -> None:
    found, turns = whole(tmp_path / "whole", BASE, monkeypatch)
    out = cut(tmp_path / "cut", BASE, monkeypatch, turns // 2)
    for path in Checkpoints(out / "checkpoint").files():
        path.unlink()
    said: list[str] = []
    assert outcome(run(out, BASE, resume=said.append)) == outcome(found)
    assert said == ["there is no checkpoint: it begins anew"]


def test_writing_often_changes_nothing(tmp_path, monkeypatch) -> None:
    found, _ = whole(tmp_path / "whole", BASE, monkeypatch)
    monkeypatch.setattr(conduct, "Keeper", keeping.Keeper)
    monkeypatch.setattr(keeping, "LEAST", 0.0)
    monkeypatch.setattr(keeping, "KEEPING_SHARE", 1e9)
    assert outcome(run(tmp_path / "often", BASE)) == outcome(found)


def test_repeating_trains_nobody_and_measures_nothing(tmp_path, monkeypatch) -> None:
    found, turns = whole(tmp_path / "whole", BASE, monkeypatch)
    out = cut(tmp_path / "cut", BASE, monkeypatch, turns - 2)
    trained, measured = counted(monkeypatch, Trainer, "__call__"), counted(monkeypatch, Evaluator, "_measure")
    assert outcome(run(out, BASE, resume=print)) == outcome(found)
    assert sum(len(tasks) for tasks, *_ in trained) < found.receipt["counts"]["trained"] / 2
    assert len(measured) < len(found.metrics) / 2


def counted(monkeypatch, whose: type, what: str) -> list[tuple]:
    """The arguments of all calls."""
    calls, own = [], getattr(whose, what)

    def call(self, *arguments, **more):
        calls.append(arguments)
        return own(self, *arguments, **more)

    monkeypatch.setattr(whose, what, call)
    return calls


DEATHS = {
    "at an event": """
look, turns = keeping.Keeper.look, []
def dies(self, progress):
    look(self, progress)
    if progress.turns == 60:
        os.kill(os.getpid(), signal.SIGKILL)
keeping.Keeper.look = dies
""",
    "while it trains": """
from fedsim.training import Trainer
train, calls = Trainer.__call__, []
def dies(self, tasks, drift=None):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return train(self, tasks, drift)
Trainer.__call__ = dies
""",
    "while it writes a checkpoint": """
fsync, calls = os.fsync, []
def dies(handle):
    calls.append(1)
    if len(calls) == 81:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(handle)
os.fsync = dies
""",
    "while it writes a table": """
from fedsim.folder import RunFolder
table, calls = RunFolder._table, []
def dies(self, name, frame):
    calls.append(1)
    if len(calls) == 1 and name == "metrics.csv":
        (self.path / "metrics.csv.tmp").write_text("time_s,ver")
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    table(self, name, frame)
RunFolder._table = dies
""",
}
CHILD = """
import os, signal, sys
import fedsim
from fedsim import keeping, results
keeping.LEAST, keeping.KEEPING_SHARE, results.WRITING_SHARE = 0.0, 1e9, 1e9
{death}
fedsim.run({scenario!r}, out={out!r}, picture=False)
"""


@pytest.mark.parametrize("death", DEATHS)
def test_kill_9(tmp_path, monkeypatch, death) -> None:
    found, _ = whole(tmp_path / "whole", BASE, monkeypatch)
    monkeypatch.setattr(conduct, "Keeper", keeping.Keeper)
    code = CHILD.format(death=DEATHS[death], scenario=BASE, out=str(tmp_path / "out"))
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    [path] = (tmp_path / "out" / "scenario").iterdir()
    assert Checkpoints(path / "checkpoint").files()
    said: list[str] = []
    again = conduct.resume(path, tell=said.append)
    assert (outcome(again), said) == (outcome(found), [])
    assert {each.name for each in path.iterdir()} == {each.name for each in found.path.iterdir()} | {"metrics.png"}


# Stopping -------------------------------------------------------------------------------------------------------------


class Asked(keeping.Keeper):
    """Somebody presses Ctrl-C at turn 50, once or twice."""

    times = 1

    def look(self, progress) -> None:
        super().look(progress)
        if progress.turns == 50:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def main(monkeypatch, *arguments: str) -> int:
    """The exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["fedsim", *arguments])
    with pytest.raises(SystemExit) as end:
        fedsim.__main__.main()
    return int(end.value.code or 0)


def test_ctrl_c_keeps_what_was_done_and_says_how_to_go_on(tmp_path, monkeypatch, capsys) -> None:
    found, _ = whole(tmp_path / "whole", BASE, monkeypatch)
    monkeypatch.setattr(conduct, "Keeper", Asked)
    file, before = tmp_path / "short.yaml", signal.getsignal(signal.SIGINT)
    file.write_text(yaml.safe_dump(BASE))
    assert main(monkeypatch, "run", str(file), "--out", str(tmp_path)) == 3
    assert signal.getsignal(signal.SIGINT) is before
    [path] = (tmp_path / "short").iterdir()
    assert capsys.readouterr().err.strip() == f"stopped; go on with: fedsim resume {path}"
    [checkpoint] = Checkpoints(path / "checkpoint").files()
    assert read(checkpoint).turns == 51
    assert not (path / "failure.json").exists()
    monkeypatch.setattr(conduct, "Keeper", keeping.Keeper)
    assert main(monkeypatch, "resume", str(path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(path)
    assert outcome(fedsim.load(path)) == outcome(found)


def test_a_second_ctrl_c_does_not_wait(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(conduct, "Keeper", Asked)
    monkeypatch.setattr(Asked, "times", 2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", BASE)
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_what_is_over_is_left(tmp_path, monkeypatch, capsys) -> None:
    found = fedsim.run(BASE, out=tmp_path, picture=False)
    before = {path: path.stat().st_mtime_ns for path in found.path.iterdir()}
    assert main(monkeypatch, "resume", str(found.path), "--json") == 0
    said = capsys.readouterr()
    assert said.err.strip() == f"{found.path} is over already; nothing is left to do"
    assert list(json.loads(said.out)["runs"]) == ["scenario"]
    assert {path: path.stat().st_mtime_ns for path in found.path.iterdir()} == before


COMPARED = {key: value for key, value in BASE.items() if key != "aggregator"} | {
    "compare": {"rule": {"buffered": {"aggregator": {"fedbuff": {"goal": 4}}}, "rounds": {"aggregator": "fedavg"}},
                "seed": [1, 2]}
}  # fmt: skip


@pytest.mark.parametrize("workers", [1, 2])
def test_of_a_comparison_what_is_over_is_left_and_the_rest_goes_on(tmp_path, monkeypatch, workers) -> None:
    wanted = fedsim.run(COMPARED, out=tmp_path / "whole", picture=False)

    class Third(keeping.Keeper):
        def look(self, progress) -> None:
            if progress.turns == 50 and "rounds" in str(self.checkpoints.folder):
                self.write()
                raise Killed

    monkeypatch.setattr(conduct, "Keeper", Third)
    with pytest.raises(Killed):
        fedsim.run(COMPARED, out=tmp_path / "cut", picture=False)
    monkeypatch.setattr(conduct, "Keeper", keeping.Keeper)
    path = tmp_path / "cut" / "scenario" / wanted.path.name
    arms = {arm.label: arm for arm in fedsim.load(path).arms}
    assert [arm.finished for arm in arms.values()] == [True, True, False, False]
    first = next(iter(arms.values())).path / "receipt.json"
    before, told = first.stat().st_mtime_ns, []
    again = conduct.resume(path, workers=workers, finished=lambda *what: told.append(what))
    assert first.stat().st_mtime_ns == before
    assert [outcome(arm) for arm in again.arms] == [outcome(arm) for arm in wanted.arms]
    assert again.coordinates == wanted.coordinates
    assert [what[1:] for what in told] == [(3, 4), (4, 4)]


# Of another origin ----------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    """Of a run that was killed."""
    return cut(tmp_path / "cut", BASE, monkeypatch, 40)


def test_a_scenario_that_was_changed_meanwhile_is_refused(path) -> None:
    file = path / "scenario.yaml"
    file.write_text(file.read_text().replace("seed: 3", "seed: 4"))
    with pytest.raises(ScenarioError, match=r"^scenario.yaml: it was changed after this run had begun; run the"):
        conduct.resume(path)
    assert Checkpoints(path / "checkpoint").files()


def test_data_that_were_changed_meanwhile_are_refused(path, monkeypatch) -> None:
    load = Digits.load

    def changed(self, folders):
        found = load(self, folders)
        found.x_test[7, 0, 3, 3] += 1
        return found

    monkeypatch.setattr(Digits, "load", changed)
    with pytest.raises(ScenarioError, match=r"^data.digits: these are other examples than this run had begun with"):
        conduct.resume(path)
    assert Checkpoints(path / "checkpoint").files()


def test_what_another_fedsim_has_begun_is_refused(path, monkeypatch) -> None:
    monkeypatch.setattr(repeating, "version", lambda name: "9.9")
    with pytest.raises(ScenarioError, match=r"begun by fedsim-lab .*, and this is 9.9: go on with that"):
        conduct.resume(path)


def test_of_another_torch_one_is_told(path, monkeypatch) -> None:
    own = repeating.version
    monkeypatch.setattr(repeating, "version", lambda name: "9.9" if name == "torch" else own(name))
    said: list[str] = []
    assert conduct.resume(path, tell=said.append).finished
    assert said == [f"it was begun with torch {own('torch')}, and this is 9.9: numbers may differ in the last digits"]


def test_a_timeline_that_does_not_repeat_is_refused(path, monkeypatch) -> None:
    """As if the selection depended on something that nobody has noted."""
    choose = Uniform.choose
    monkeypatch.setattr(Uniform, "choose", lambda self, pool, count, turn: choose(self, pool, count, turn + 1))
    with pytest.raises(RunFailed, match="its timeline depends on numbers that nobody noted; run it anew"):
        conduct.resume(path)


def test_a_checkpoint_that_does_not_fit_is_refused(path, monkeypatch) -> None:
    """As if the algorithm had been another one when it was written."""
    monkeypatch.setattr(repeating.Unpacking, "fill", lambda self, thing, facts: vars(thing)["velocity"])
    with pytest.raises(RunFailed, match="its checkpoint does not fit: KeyError"):
        conduct.resume(path)


def test_no_folder_no_run(tmp_path, monkeypatch) -> None:
    assert main(monkeypatch, "resume", str(tmp_path / "nowhere")) == 2


# What cannot be taken up ----------------------------------------------------------------------------------------------

FORGETFUL = """
from fedsim.peers.gossip import Local


class Forgetful(Local):
    resumable = False
"""


def test_peers_that_do_not_say_where_their_numbers_are_begin_anew(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_peers_here.py").write_text(FORGETFUL)
    monkeypatch.syspath_prepend(tmp_path)
    base = among_peers("local", peers="my_peers_here:Forgetful")
    [arm] = scenario.read(base)
    why = "peers.my_peers_here:Forgetful does not say that all its numbers are its nodes' (resumable)"
    assert why in conduct.foresee(experiment.assemble(arm))["caveat"]
    monkeypatch.setattr(conduct, "Keeper", Asked)
    with pytest.raises(Interrupted, match=r"stopped; it has to begin anew, as peers\.my_peers_here:Forgetful"):
        run(tmp_path / "out", base)
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_a_state_that_cannot_be_written_down_ends_no_run(tmp_path, monkeypatch) -> None:
    found, _ = whole(tmp_path / "whole", BASE, monkeypatch)
    take = FedBuff.take

    def odd(self, update) -> bool:
        self.secret = iter(())
        return take(self, update)

    monkeypatch.setattr(FedBuff, "take", odd)
    monkeypatch.setattr(conduct, "Keeper", Asked)
    with pytest.raises(Interrupted, match="begin anew, as a state cannot hold a tuple_iterator"):
        run(tmp_path / "out", BASE)
    monkeypatch.setattr(conduct, "Keeper", keeping.Keeper)
    monkeypatch.setattr(keeping, "LEAST", 0.0)
    assert outcome(run(tmp_path / "out", BASE)) == outcome(found)


@pytest.mark.parametrize(
    "base", [BASE, EDGES, among_peers("gossip"), by_code("gc")], ids=["server", "edges", "peers", "code"]
)
def test_a_run_of_timing_alone_begins_anew(tmp_path, base) -> None:
    [arm] = scenario.read(base, ["executor='null'"])
    made = experiment.assemble(arm)
    assert "begin anew" not in conduct.foresee(made)["caveat"]
    assert repeating.refusal(made, made.simulation(Trace())) is not None
    first, again = (conduct.conduct(made, tmp_path / "out", resume=how) for how in (None, print))
    assert outcome(again) == outcome(first)
