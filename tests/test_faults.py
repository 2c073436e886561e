"""What goes wrong does so where it was asked for, leaves the rest as it is, and can be repeated."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from kills import among_peers, by_code, of, outcome, resumed, run, some, whole
from test_edges import DIGITS as EDGES
from test_secure import DIGITS as SECURE
from test_secure import SECURE as MASKED
from watching import watched

from fedsim import experiment, scenario
from fedsim.conduct import foresee
from fedsim.errors import ScenarioError
from fedsim.faults import FAULTS, Partition
from fedsim.network import Degraded
from fedsim.peers import PEERS
from fedsim.rng import chance

CALM = {"fleet": {"clients": 8, "devices": {"constant": {"per_example": "100 ms"}}}}
MANY = {"until": {"versions": 8, "time": "1 d"}}
KINDS = {
    "kill": {"kill": {"chance": 0.3}},
    "kill_download": {"kill": {"chance": 0.3, "phase": "download"}},
    "kill_upload": {"kill": {"chance": 0.3, "phase": "upload"}},
    "kill_at": {"kill": {"at": ["2 s", "5 s"]}},
    "duplicate": {"duplicate": {"chance": 0.5, "times": 2}},
    "delay": {"delay": {"chance": 0.4, "by": "20 s"}},
    "corrupt": {"corrupt": {"chance": 0.4}},
    "corrupt_shape": {"corrupt": {"chance": 0.4, "how": "shape"}},
    "corrupt_bit": {"corrupt": {"chance": 0.9, "how": "bit"}},
    "degrade": {"degrade": {"at": ["1 s"], "lasts": "1 h", "share": 0.1}},
    "partition": {"partition": {"at": ["2 s"], "lasts": "1 min"}},
    "skew": {"skew": {"factor": 3.0, "clients": [1, 5]}},
    "restart": {"restart": {"at": ["3 s", "9 s"]}},
}


def with_faults(*faults: Any, aggregator: str = "fedbuff", **changes: Any) -> dict[str, Any]:
    """A calm run in which these go wrong."""
    return of(aggregator) | CALM | MANY | {"faults": list(faults)} | changes


@pytest.fixture
def calm(tmp_path):
    """Nothing goes wrong."""
    return run(tmp_path / "calm", of("fedbuff") | CALM | MANY)


@pytest.mark.parametrize("aggregator", ["fedavg", "fedbuff"])
@pytest.mark.parametrize("name", KINDS)
def test_whatever_goes_wrong_is_borne(tmp_path, name, aggregator) -> None:
    with watched() as watchers:
        found = run(tmp_path / "run", with_faults(KINDS[name], aggregator=aggregator))
    assert found.finished
    assert found.metrics.version.iloc[-1] == 8
    assert watchers[-1].turns > 50
    again = run(tmp_path / "again", with_faults(KINDS[name], aggregator=aggregator))
    assert outcome(again) == outcome(found)


def test_every_kind_is_tried() -> None:
    assert {name.split("_")[0] for name in KINDS} == set(FAULTS)


@pytest.mark.parametrize("name", ["kill", "kill_at", "duplicate", "delay", "degrade", "partition", "skew", "restart"])
def test_time_passes_alike_without_training(tmp_path, name) -> None:
    base = with_faults(KINDS[name])
    trained = run(tmp_path / "trained", base)
    assert run(tmp_path / "timing", base | {"executor": "null"}).receipt["trace"] == trained.receipt["trace"]


@pytest.mark.parametrize("faults", [list(KINDS.values())[:6], list(KINDS.values())[6:]], ids=["first", "second"])
def test_a_run_with_faults_is_taken_up_as_if_nothing_had_happened(tmp_path, monkeypatch, faults) -> None:
    base = with_faults(*faults, until={"versions": 6, "time": "1 d"})
    found, turns = whole(tmp_path / "whole", base, monkeypatch)
    again = resumed(tmp_path / "again", base, some(turns, 4, "faults"), monkeypatch)
    assert outcome(again) == outcome(found)


def kinds(found) -> dict[str, int]:
    return found.trace.kind.value_counts().to_dict()


SLOW = {"clients": 8, "devices": {"constant": {"per_example": "100 ms", "down": "20 kbit/s", "up": "20 kbit/s"}}}
PHASES = {"download": "start", "train": "train", "upload": "upload"}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("timed", [True, False], ids=["at", "chance"])
def test_clients_are_killed_in_the_phase_that_is_named(tmp_path, phase, timed) -> None:
    calm = run(tmp_path / "calm", with_faults(fleet=SLOW))
    first, next_one = calm.trace[calm.trace.client == 3].time[1:].iloc[list(PHASES).index(phase) :][:2]
    when = {"at": [f"{(first + next_one) // 2} us"]} if timed else {"chance": 0.4}
    found = run(tmp_path / "run", with_faults({"kill": {"phase": phase, **when}}, fleet=SLOW))
    own = found.trace[found.trace.kind.isin(["start", "train", "upload", "arrive", "lost"])]
    before = own.groupby("client").kind.shift()[own.kind == "lost"]
    assert len(before) > 0
    assert set(before) == {PHASES[phase]}
    assert found.metrics.lost.iloc[-1] == len(before)


def test_who_is_in_another_phase_lives(tmp_path) -> None:
    calm = run(tmp_path / "calm", with_faults(fleet=SLOW))
    own = calm.trace[calm.trace.client == 3]
    training = (own.time[own.kind == "train"].iloc[0] + own.time[own.kind == "upload"].iloc[0]) // 2
    lost = {}
    for phase in PHASES:
        kill = {"kill": {"phase": phase, "at": [f"{training} us"], "clients": [3]}}
        lost[phase] = run(tmp_path / phase, with_faults(kill, fleet=SLOW)).metrics.lost.iloc[-1]
    assert lost == {"download": 0, "train": 1, "upload": 0}


def test_a_killed_client_is_asked_again_after_its_recovery(tmp_path) -> None:
    found = run(tmp_path / "run", with_faults({"kill": {"at": ["500 ms"], "clients": [2]}}, until={"time": "5 min"}))
    own = found.trace[found.trace.client == 2]
    (lost,) = own.time[own.kind == "lost"]
    assert lost == 500_000
    assert own.time[(own.kind == "start") & (own.time > lost)].min() >= lost + 60_000_000


def test_copies_are_refused_and_pay_for_their_way(tmp_path, calm) -> None:
    found = run(tmp_path / "run", with_faults({"duplicate": {"chance": 1.0}}, until={"updates": 40}))
    assert 20 <= kinds(found)["unasked"] <= 40
    up = found.trace.nbytes[found.trace.kind.isin(["arrive", "unasked"])].sum()
    assert found.metrics.bytes_up.iloc[-1] == up
    assert found.metrics.updates.iloc[-1] == kinds(found)["arrive"] == 40


def test_copies_change_nothing_that_is_learnt_where_links_are_free(tmp_path) -> None:
    fleet = {"clients": 8, "devices": {"constant": {"per_example": "100 ms", "up": "unlimited"}}}
    alone = run(tmp_path / "alone", with_faults(fleet=fleet))
    twice = run(tmp_path / "twice", with_faults({"duplicate": {"chance": 1.0, "times": 3}}, fleet=fleet))
    assert list(twice.metrics.loss) == list(alone.metrics.loss)
    assert kinds(twice)["unasked"] > 50


def test_a_delayed_answer_is_late_by_that_much_and_overtaken(tmp_path) -> None:
    found = run(tmp_path / "run", with_faults({"delay": {"clients": [3], "chance": 1.0, "by": "7 s"}}))
    spans = {client: own.time[own.kind == "arrive"].iloc[0] - own.time[own.kind == "upload"].iloc[0]
             for client, own in found.trace.groupby("client") if client in (2, 3)}  # fmt: skip
    assert spans[3] == spans[2] + 7_000_000


def test_what_is_corrupted_is_refused_by_name(tmp_path, calm) -> None:
    for how, word in {"nan": "infinite", "shape": "misshapen"}.items():
        found = run(tmp_path / how, with_faults({"corrupt": {"chance": 1.0, "how": how, "clients": [0, 1]}}))
        refused = found.trace[found.trace.kind == word]
        assert set(refused.client) <= {0, 1}
        assert len(refused) > 0
    bits = run(tmp_path / "bits", with_faults({"corrupt": {"chance": 1.0, "how": "bit", "clients": [0, 1]}}))
    assert list(bits.metrics.loss) != list(calm.metrics.loss)
    timing = run(tmp_path / "timing", with_faults({"corrupt": {"chance": 1.0}}, executor="null"))
    assert timing.receipt["trace"] == calm.receipt["trace"]


def test_a_degraded_link_takes_as_much_longer_as_it_carries_less(tmp_path) -> None:
    star = {"star": {"latency": "0 s"}}
    slow = run(
        tmp_path / "slow", with_faults({"degrade": {"at": ["0 s"], "lasts": "1 d", "share": 0.25}}, network=star)
    )
    calm = run(tmp_path / "calm", with_faults(network=star))
    began, usual = (found.trace[found.trace.kind == "train"].time.min() for found in (slow, calm))
    assert began == pytest.approx(4 * usual, rel=1e-3)


def test_a_degraded_capacity_is_a_share_within_its_periods() -> None:
    link = Degraded(8.0, [(4.0, 6.0), (5.0, 9.0)], 0.5)
    assert [link.at(time)[0] for time in (3.0, 4.0, 8.0, 9.0)] == [8.0, 4.0, 4.0, 8.0]
    assert link.levels == {8.0, 4.0}


def test_halves_are_drawn_anew_and_come_to_all() -> None:
    (arm,) = scenario.read(with_faults({"partition": {"every": "1 min", "times": 5, "lasts": "10 s"}}))
    graph = experiment.assemble(arm).graph
    fault = Partition(every=60_000_000, times=5, lasts=10_000_000)
    outages = fault.outages(graph, 8, partial(chance, 1))
    assert all(sorted(outage.named) == list(range(8)) for outage in outages)
    assert all([len(half) for half in outage.split or ()] == [4, 4] for outage in outages)
    assert len({outage.split for outage in outages}) > 1
    assert all(outage.end - outage.start == 10_000_000 for outage in outages)


def test_nobody_trains_across_a_partition(tmp_path) -> None:
    split = {"partition": {"at": ["10 s"], "lasts": "30 s", "split": [[0, 1, 2, 3], [4, 5, 6, 7]]}}
    found = run(tmp_path / "run", with_faults(split, until={"time": "1 min"}))
    apart = found.trace[(found.trace.time > 10_000_000) & (found.trace.time < 40_000_000)]
    assert not set(apart.client[apart.kind.isin(["train", "arrive"])]) & {4, 5, 6, 7}
    assert set(apart.client[apart.kind == "arrive"]) == {0, 1, 2, 3}


def test_a_skewed_clock_stretches_training_alone(tmp_path, calm) -> None:
    found = run(tmp_path / "run", with_faults(KINDS["skew"]))

    def trained(run):
        own = run.trace[run.trace.client == 1]
        return own.time[own.kind == "upload"].iloc[0] - own.time[own.kind == "train"].iloc[0]

    assert trained(found) == 3 * trained(calm)


def test_a_restart_loses_what_is_under_way_and_keeps_the_rest(tmp_path) -> None:
    found = run(tmp_path / "run", with_faults({"restart": {"at": ["5 s"]}}, until={"time": "1 min"}))
    lost = found.trace[found.trace.kind == "lost"]
    assert set(lost.time) == {5_000_000}
    assert len(lost) > 1
    begun = found.trace[(found.trace.kind == "start") & (found.trace.time == 5_000_000)]
    assert set(lost.client) <= set(begun.client)
    versions = found.trace.version[found.trace.kind == "version"]
    assert list(versions) == list(range(1, len(versions) + 1))


def test_two_faults_of_a_kind_have_draws_of_their_own(tmp_path) -> None:
    one = run(tmp_path / "one", with_faults(KINDS["kill"]))
    two = run(tmp_path / "two", with_faults(KINDS["kill"], KINDS["kill"]))
    assert two.metrics.lost.iloc[-1] > one.metrics.lost.iloc[-1]


def test_what_will_happen_is_foreseen(tmp_path) -> None:
    (arm,) = scenario.read(with_faults(*list(KINDS.values())[:5]))
    cost = foresee(experiment.assemble(arm))
    found = run(tmp_path / "run", arm.resolved)
    assert (cost["lost"], cost["bytes_up"]) == (found.metrics.lost.iloc[-1], found.metrics.bytes_up.iloc[-1])


@pytest.mark.parametrize("base", [among_peers("gossip"), by_code("gc"), EDGES], ids=["peers", "code", "edges"])
@pytest.mark.parametrize("name", ["degrade", "partition", "skew"])
def test_links_and_clocks_go_wrong_for_all(tmp_path, name, base) -> None:
    assert run(tmp_path / "run", base | {"faults": [KINDS[name]]}).finished


@pytest.mark.parametrize("peers", sorted(set(PEERS) - {"local"}))
def test_letters_of_every_peer_may_come_late_and_again(tmp_path, peers, monkeypatch) -> None:
    """Whatever the algorithm: all rounds end, what is heard is heard once, and a run is taken up in the middle."""
    late, twice = {"delay": {"chance": 0.3, "by": "40 s"}}, {"duplicate": {"chance": 0.5, "times": 2}}
    base = among_peers(peers, faults=[late, twice], until={"versions": 4})
    with watched():
        found, turns = whole(tmp_path / "run", base, monkeypatch)
    calm = run(tmp_path / "calm", among_peers(peers, until={"versions": 4}))
    assert found.finished
    assert found.metrics.version.iloc[-1] == 4
    sent, again = (found.trace[found.trace.kind == kind] for kind in ("arrive", "unasked"))
    assert len(again) > 0.5 * len(sent)
    assert found.metrics.bytes_up.iloc[-1] == sent.nbytes.sum() + again.nbytes.sum()
    assert found.metrics.time_s.iloc[-1] > calm.metrics.time_s.iloc[-1]
    assert outcome(resumed(tmp_path / "again", base, some(turns, 2, peers, "late"), monkeypatch)) == outcome(found)


def test_a_letter_is_held_up_for_as_long_as_is_said(tmp_path) -> None:
    late = {"delay": {"clients": [3], "chance": 1.0, "by": "7 s"}}
    took = {}
    for name, faults in (("calm", []), ("late", [late])):
        rows = run(tmp_path / name, among_peers("dpsgd", faults=faults)).trace
        own = rows[(rows.client == 3) & (rows.peer >= 0)]
        took[name] = own.time[own.kind == "arrive"].iloc[0] - own.time[own.kind == "upload"].iloc[0]
    assert took["late"] == took["calm"] + 7_000_000


def test_copies_of_letters_change_nothing_that_peers_learn_where_links_are_free(tmp_path) -> None:
    """Rounds of gossip hear the same, however often it is said."""
    free = {"network": {"ring": {"capacity": "unlimited", "latency": "10 ms"}}, "fleet": CALM["fleet"]}
    alone, often = (run(tmp_path / name, among_peers("dpsgd", faults=faults, **free))
                    for name, faults in (("alone", []), ("often", [KINDS["duplicate"]])))  # fmt: skip
    assert "unasked" in set(often.trace.kind)
    assert often.receipt["digests"]["model.safetensors"] == alone.receipt["digests"]["model.safetensors"]


REFUSED = {
    "faults.1: kill befalls clients of one server; peers": among_peers("gossip", faults=[KINDS["skew"], KINDS["kill"]]),
    "faults.0: restart befalls clients of one server; work": by_code("gc", faults=[KINDS["restart"]]),
    "faults.0: delay befalls clients of one server; edges": EDGES | {"faults": [KINDS["delay"]]},
    "rounds under masks bear": SECURE | {"wire": MASKED, "faults": [KINDS["duplicate"]]},
    "there is no client 9; they are numbered 0 to 7": with_faults({"kill": {"chance": 0.1, "clients": [9]}}),
    "faults.0.kill: needs either chance or at": with_faults({"kill": {"clients": [1]}}),
    "needs either chance or at": with_faults({"kill": {"chance": 0.1, "at": ["1 s"]}}),
    "faults.0.restart: needs either at or every": with_faults({"restart": {}}),
    "there is no faults 'explode' here": with_faults({"explode": {}}),
    "faults.degrade: there is no node 'moon'": with_faults(
        {"degrade": {"at": ["1 s"], "lasts": "1 s", "share": 0.5, "between": [0, "moon"]}}),
    "faults.partition: there is no node 70": with_faults(
        {"partition": {"at": ["1 s"], "lasts": "1 s", "split": [[0], [70]]}}),
    "one client has no halves": with_faults(KINDS["partition"], fleet={"clients": 1, "devices": "constant"}),
}  # fmt: skip


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(said) -> None:
    with pytest.raises(ScenarioError, match=said) as refused:
        experiment.assemble(scenario.read(REFUSED[said])[0])
    assert "\n" not in str(refused.value)


def test_a_scenario_without_faults_has_the_name_that_it_had() -> None:
    (arm,) = scenario.read(of("fedavg"))
    assert "faults" not in arm.resolved
