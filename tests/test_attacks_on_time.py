"""Clients that answer when it suits them: timelines by hand, with a server and with a code."""

from __future__ import annotations

from collections import Counter

import pytest
from worlds import Recording, devices, simulation

from fedsim import experiment, scenario
from fedsim.aggregators import FedAvg, FedBuff
from fedsim.errors import ScenarioError
from fedsim.progress import Until
from fedsim.staleness import Hinge
from fedsim.stalling import Linger, Pace, Stale, Stalling
from fedsim.trace import ARRIVE, LOST, VERSION
from fedsim.units import SECOND

ONE = frozenset({0})


def times(run, kind: int = VERSION) -> list[float]:
    return [row[0] / SECOND for row in run.trace.of(kind)]


def started(make, fleet, until, **changes):
    run = simulation(make, fleet, until, **changes)
    run.run()
    return run


# With a server --------------------------------------------------------------------------------------------------------


def test_whoever_slows_down_is_waited_for() -> None:
    """Rounds of 3 seconds; from version 2 on the first client takes 8 times its second."""
    run = started(FedAvg, devices(1, 2, 3), Until(versions=4), stalling=Stalling(ONE, Pace(8.0), since=2))
    assert times(run) == [3, 6, 14, 22]


def test_whoever_does_not_train_answers_at_once_and_is_heard_more_often() -> None:
    """FedBuff refills a slot at each arrival: three honest clients of a second each, and a rider of a microsecond."""

    def riders(**changes) -> float:
        run = started(lambda params, roster: FedBuff(params, roster, concurrency=4, goal=10), devices(1, 1, 1, 1),
                      Until(updates=400), **changes)  # fmt: skip
        heard = Counter(row[2] for row in run.trace.of(ARRIVE))
        return heard[0] / heard.total()

    assert riders() == pytest.approx(0.25)
    assert riders(stalling=Stalling(ONE, Pace(0.0))) > 0.99


def test_whoever_lingers_draws_every_round_out_and_is_never_late() -> None:
    """A deadline of 10 s; nine tenths of it; and if the upload takes 2 s, it begins 2 s earlier."""

    def make(params, roster):
        return FedAvg(params, roster, cohort="all", deadline=10 * SECOND)

    assert times(started(make, devices(1, 2, 3), Until(versions=2))) == [3, 6]
    for rate in (float("inf"), 500.0):
        run = started(make, devices(1, 1, 1, rate=rate), Until(versions=2), stalling=Stalling(ONE, Linger(0.9)))
        assert times(run) == [9, 18]
        assert not run.trace.of(LOST)
        assert len(run.trace.of(ARRIVE)) == 6


def test_whoever_could_be_no_later_does_not_linger() -> None:
    run = started(lambda params, roster: FedAvg(params, roster, cohort="all", deadline=10 * SECOND),
                  devices(9.5, 1), Until(versions=1), stalling=Stalling(ONE, Linger(0.9)))  # fmt: skip
    assert times(run) == [9.5]


def test_whoever_keeps_its_answer_is_as_stale_as_it_wants_to_be() -> None:
    """Steps at every arrival; the others arrive each second. Three versions late is within the grace."""
    run = started(lambda params, roster: FedBuff(params, roster, concurrency=3, goal=1, discount=Hinge(grace=3)),
                  devices(0.5, 1, 1.7), Until(versions=40), stalling=Stalling(ONE, Stale(3)))  # fmt: skip
    stale = [row[5] for row in run.trace.of(ARRIVE) if row[2] == 0]
    assert len(stale) > 5
    assert set(stale) == {3}


def test_whoever_is_stale_enough_already_answers_at_once() -> None:
    """It needs 3.5 seconds, the other one: three steps have been taken meanwhile, and nothing is waited for."""
    run = started(lambda params, roster: FedBuff(params, roster, concurrency=2, goal=1), devices(3.5, 1.0),
                  Until(versions=12), stalling=Stalling(ONE, Stale(2)))  # fmt: skip
    arrivals = [(row[0] / SECOND, row[5]) for row in run.trace.of(ARRIVE) if row[2] == 0]
    assert arrivals[0] == (3.5, 3)


def test_it_does_not_wait_for_ever() -> None:
    """Two clients, of whom only the attacker works: nobody takes a step until its patience is over."""
    run = started(lambda params, roster: FedBuff(params, roster, concurrency=1, goal=1), devices(1.0),
                  Until(versions=2), stalling=Stalling(ONE, Stale(3, patience=5 * SECOND)))  # fmt: skip
    assert times(run) == [6, 12]


def test_whoever_is_cut_off_while_it_waits_is_lost_and_forgotten() -> None:
    from fedsim.fleet import Fleet
    from fedsim.fleet.availability import Availability

    class Leaves(Availability):
        def windows(self, client, seed):
            return iter([(0, 4 * SECOND)] if client == 0 else [(0, 10**15)])

    fleet = Fleet(devices(1, 3), availability=Leaves())
    run = started(lambda params, roster: FedBuff(params, roster, concurrency=2, goal=1), fleet,
                  Until(versions=5), stalling=Stalling(ONE, Stale(3)))  # fmt: skip
    assert [row[2] for row in run.trace.of(LOST)] == [0]
    assert times(run) == [3, 6, 9, 12, 15]


# In a scenario --------------------------------------------------------------------------------------------------------

STALE = {"stale": {"versions": 3}}
CODED = {
    "seed": 3,
    "until": {"versions": 12},
    "data": {"digits": {"partition": "iid"}},
    "model": "logistic",
    "fleet": {"clients": 6, "devices": {"constant": {"per_example": "10 ms"}}},
    "network": {"star": {"latency": "0 s", "server_up": "unlimited", "server_down": "unlimited"}},
    "local": {"steps": 1, "batch": 24, "optimizer": {"sgd": {"lr": 0.5}}},
    "evaluate": {"every": "1 h"},
    "coding": {"gc": {"stragglers": 2, "mu": 1.0}},
}


def coded(adversaries: dict | None, **changes) -> dict:
    [arm] = scenario.read(CODED | changes | ({"adversaries": adversaries} if adversaries else {}))
    run = experiment.assemble(arm).simulation(Recording())
    run.run()
    return run.progress.rows[-1]


def test_a_code_bears_as_many_who_slow_down_as_it_is_made_for_and_no_more() -> None:
    """Two of six: given up after twice the fastest one's time. Three: waited for, all eight times as long."""
    slow = {"timing": {"pace": {"factor": 8}}}
    usual = coded(None)
    two, three = coded(slow | {"share": 0.34}), coded(slow | {"share": 0.5})
    assert (usual["straggled"], two["straggled"]) == (0, 24)
    assert two["waited_out"] == 0
    assert three["waited_out"] == 12
    assert two["time_s"] == pytest.approx(2 * usual["time_s"], rel=0.02)
    assert three["time_s"] == pytest.approx(8 * usual["time_s"], rel=0.02)


def test_one_who_lingers_costs_nearly_as_much_as_two_who_are_given_up_and_is_not_found() -> None:
    usual, one = coded(None), coded({"timing": {"linger": {"part": 0.9}}, "share": 0.17})
    assert one["straggled"] == 0
    assert one["waited_out"] == 0
    assert one["time_s"] == pytest.approx(1.8 * usual["time_s"], rel=0.02)


def test_in_time_models_are_those_of_honest_workers() -> None:
    """A code's gradient is exact whoever is late: time is all that such attackers cost."""
    assert coded({"timing": "linger", "share": 0.34})["loss"] == pytest.approx(coded(None)["loss"], rel=1e-6)


@pytest.mark.parametrize("timing", ["pace", {"linger": {"part": 0.5}}])
def test_time_is_the_same_under_every_executor(timing) -> None:
    server = {"coding": None, "aggregator": {"fedavg": {"cohort": "all", "deadline": "20 s"}}}
    digests = []
    for executor in ("inline", "stacked", "null"):
        adversaries = {"timing": timing, "lie": "sign_flip", "share": 0.5}
        [arm] = scenario.read(CODED | server | {"executor": executor, "adversaries": adversaries})
        run = experiment.assemble(arm).simulation(Recording())
        run.run()
        digests.append(run.trace.digest())
    assert len(set(digests)) == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"adversaries": {"share": 0.1, "timing": STALE}}, "timing: all workers of a code begin a round at once"),
     ({"adversaries": {"share": 0.1, "lie": "sign_flip"}}, "adversaries.lie: a code believes its workers"),
     ({"adversaries": {"share": 0.1, "poison": "label_flip"}}, "adversaries.poison: a code believes its workers"),
     ({"adversaries": {"share": 1.0, "timing": "linger"}}, "adversaries.share: somebody has to be honest"),
     ({"coding": None, "aggregator": "fedavg", "adversaries": {"share": 0.1, "timing": "linger"}}, "has no deadline"),
     ({"coding": None, "aggregator": "fedavg", "adversaries": {"share": 0.1, "timing": STALE}}, "waits for everybody"),
     ({"defence": "median"}, "defence: codes have messages of their own")],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(changes, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        [experiment.assemble(arm) for arm in scenario.read(CODED | changes)]
