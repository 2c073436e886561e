"""The privacy ledger: dp_accounting's own numbers, for the sampling that takes place, or a reason why not."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from itertools import pairwise

import pytest

from fedsim.errors import ExtraMissing
from fedsim.wire.ledger import Facts, Ledger, Sampling, Unaccountable, example_epsilon, sampling_of

dp = pytest.importorskip("dp_accounting")

EVERYBODY, POISSON, FIXED = Sampling("everybody"), Sampling("poisson", 0.1), Sampling("fixed", cohort=3, population=20)
FACTS = Facts(
    clients=3,
    cohort=None,
    synchronous=True,
    participation_rates=(1.0, 1.0, 1.0),
    independent_rounds=True,
    always_available=True,
    fails=False,
    over_selected=False,
    deadline=False,
    uniform_selection=True,
    bounded_weights=True,
)


def accountant(kind, relation="ADD_OR_REMOVE_ONE"):
    made = {"rdp": dp.rdp.RdpAccountant, "pld": dp.pld.PLDAccountant}[kind]
    return made(neighboring_relation=dp.NeighboringRelation[relation])


@pytest.mark.parametrize("kind", ["rdp", "pld"])
@pytest.mark.parametrize(("rounds", "delta"), [(1, 1e-5), (7, 1e-3), (20, 1e-6)])
@pytest.mark.parametrize("multiplier", [1.2, 3.0])
@pytest.mark.parametrize("rate", [None, 0.01, 0.3])
def test_it_is_what_the_library_says(kind, rounds, delta, multiplier, rate) -> None:
    event = dp.GaussianDpEvent(multiplier)
    sampling = EVERYBODY if rate is None else Sampling("poisson", rate)
    if rate is not None:
        event = dp.PoissonSampledDpEvent(rate, event)
    ledger = Ledger(sampling, multiplier, delta, kind)
    assert ledger.epsilon(rounds) == accountant(kind).compose(event, rounds).get_epsilon(delta)
    assert ledger.event(rounds) == dp.SelfComposedDpEvent(event, rounds)


@pytest.mark.parametrize(("rounds", "delta"), [(1, 1e-5), (40, 1e-6)])
@pytest.mark.parametrize("multiplier", [0.8, 3.0])
@pytest.mark.parametrize("cohort", [1, 7, 20])
def test_fixed_cohorts_are_what_the_library_says_of_twice_the_sensitivity(rounds, delta, multiplier, cohort) -> None:
    event = dp.SampledWithoutReplacementDpEvent(20, cohort, dp.GaussianDpEvent(multiplier / 2))
    direct = accountant("rdp", "REPLACE_ONE").compose(event, rounds).get_epsilon(delta)
    assert Ledger(Sampling("fixed", cohort=cohort, population=20), multiplier, delta).epsilon(rounds) == direct


@pytest.mark.parametrize(("multiplier", "rounds", "cohort"), [(1.0, 1, 9), (2.0, 10, 9), (4.0, 10, 5)])
def test_fixed_cohorts_of_clients_of_which_one_matters(multiplier, rounds, cohort) -> None:
    """All others send zeros: the sum is (1 - q) N(0) + q N(C) against (1 - q) N(0) + q N(-C). No epsilon is below."""
    event = dp.PoissonSampledDpEvent(cohort / 10, dp.GaussianDpEvent(multiplier))
    true = accountant("pld", "REPLACE_ONE").compose(event, rounds).get_epsilon(1e-5)
    assert Ledger(Sampling("fixed", cohort=cohort, population=10), multiplier, 1e-5).epsilon(rounds) >= true
    once = dp.SampledWithoutReplacementDpEvent(10, cohort, dp.GaussianDpEvent(multiplier))
    assert accountant("rdp", "REPLACE_ONE").compose(once, rounds).get_epsilon(1e-5) < true  # so halving is needed


def test_of_fixed_cohorts_the_library_has_no_privacy_loss_distribution() -> None:
    for relation in dp.NeighboringRelation:
        event = dp.SampledWithoutReplacementDpEvent(20, 3, dp.GaussianDpEvent(1.0))
        assert not dp.pld.PLDAccountant(neighboring_relation=relation).supports(event)
    with pytest.raises(Unaccountable, match="take the accountant rdp"):
        Ledger(FIXED, 1.0, 1e-5, "pld")


@pytest.mark.parametrize("rounds", [1, 10, 300])
@pytest.mark.parametrize("multiplier", [1.2, 2.0, 20.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-7])
def test_full_participation_lies_between_the_exact_value_and_the_classic_bound(rounds, multiplier, delta) -> None:
    epsilon = Ledger(EVERYBODY, multiplier, delta).epsilon(rounds)
    exact = dp.get_epsilon_gaussian(multiplier / math.sqrt(rounds), delta)
    classic = rounds / (2 * multiplier**2) + math.sqrt(2 * rounds * math.log(1 / delta)) / multiplier
    assert exact <= epsilon <= min(classic, 1.25 * exact)


@pytest.mark.parametrize("sampling", [EVERYBODY, POISSON, FIXED])
def test_it_grows_with_the_rounds_and_falls_with_the_noise(sampling) -> None:
    by_rounds = [Ledger(sampling, 1.5, 1e-5).epsilon(rounds) for rounds in (0, 1, 2, 10, 100)]
    by_noise = [Ledger(sampling, multiplier, 1e-5).epsilon(10) for multiplier in (8.0, 2.0, 1.0, 0.5, 0.0)]
    for row in (by_rounds, by_noise):
        assert all(less < more for less, more in pairwise(row))
    assert by_rounds[0] == 0
    assert by_noise[-1] == math.inf


def test_nothing_is_spent_without_a_round_and_everything_without_noise() -> None:
    for kind in ("rdp", "pld"):
        silent = Ledger(POISSON, 0.0, 1e-5, kind)
        assert (silent.epsilon(0), silent.epsilon(1), silent.rounds_within(1e9, 10)) == (0, math.inf, 0)
    assert Ledger(FIXED, 0.0, 1e-5).epsilon(1) == math.inf


@pytest.mark.parametrize(
    ("ledger", "budget"),
    [(Ledger(EVERYBODY, 5.0, 1e-5), 3.0), (Ledger(EVERYBODY, 5.0, 1e-5, "pld"), 3.0), (Ledger(FIXED, 3.0, 1e-5), 3.0),
     (Ledger(POISSON, 2.0, 1e-5), 1.5), (Ledger(POISSON, 2.0, 1e-5, "pld"), 0.8)],
)  # fmt: skip
def test_rounds_within_a_budget_are_the_most(ledger, budget) -> None:
    rounds = ledger.rounds_within(budget, 10_000)
    assert 1 < rounds < 10_000
    assert ledger.epsilon(rounds) <= budget < ledger.epsilon(rounds + 1)


def test_a_budget_that_is_met_or_is_not_even_one_rounds() -> None:
    ledger = Ledger(EVERYBODY, 5.0, 1e-5)
    assert ledger.rounds_within(ledger.epsilon(37), 100) == 37
    assert ledger.rounds_within(ledger.epsilon(1) * 0.99, 100) == 0
    assert [ledger.rounds_within(math.inf, most) for most in (0, 1, 100)] == [0, 1, 100]
    with pytest.raises(ValueError, match="budget"):
        ledger.rounds_within(-1.0, 100)


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_delta_lies_between_0_and_1(delta) -> None:
    with pytest.raises(ValueError, match="delta"):
        Ledger(EVERYBODY, 1.0, delta)


def test_other_numbers_out_of_range() -> None:
    for multiplier in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="multiplier"):
            Ledger(EVERYBODY, multiplier, 1e-5)
    with pytest.raises(ValueError, match="accountant"):
        Ledger(EVERYBODY, 1.0, 1e-5, "gdp")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="-1 rounds"):
        Ledger(EVERYBODY, 1.0, 1e-5).epsilon(-1)
    with pytest.raises(ValueError, match="2 participation rates for 3 clients"):
        replace(FACTS, participation_rates=(1.0, 1.0))


@pytest.mark.parametrize(
    "numbers",
    [("poisson",), ("poisson", 0.0), ("poisson", 1.1), ("poisson", 0.5, 3), ("fixed", None, 3), ("fixed", None, 4, 3),
     ("fixed", None, 0, 3), ("fixed", 0.5, 2, 3), ("everybody", 0.5), ("everybody", None, 2, 3), ("some",)],
)  # fmt: skip
def test_a_sampling_has_the_numbers_of_its_kind(numbers) -> None:
    with pytest.raises(ValueError, match="poisson needs a rate"):
        Sampling(*numbers)


def test_adjacency_is_said() -> None:
    said = [Ledger(sampling, 1.0, 1e-5).adjacency for sampling in (EVERYBODY, POISSON, FIXED)]
    assert "zero-out" in said[0]
    assert said[1:] == ["add or remove one client", "replace one client by another"]


UNEQUAL = (0.2, 0.7, 0.4)


@pytest.mark.parametrize(
    ("facts", "sampling"),
    [
        ({}, EVERYBODY),
        ({"cohort": 3}, EVERYBODY),
        ({"cohort": 2}, Sampling("fixed", cohort=2, population=3)),
        ({"participation_rates": UNEQUAL}, Sampling("poisson", 0.7)),
        ({"participation_rates": (0.2, 1.0, 0.4)}, EVERYBODY),
        ({"participation_rates": UNEQUAL, "cohort": 3}, Sampling("poisson", 0.7)),
        ({"participation_rates": UNEQUAL, "cohort": 2}, EVERYBODY),
        ({"participation_rates": (0.2, 1.0, 0.4), "cohort": 2}, EVERYBODY),
        ({"participation_rates": UNEQUAL, "independent_rounds": False}, EVERYBODY),
        *[
            (how | device, EVERYBODY)
            for how in ({"cohort": 2}, {"participation_rates": UNEQUAL})
            for device in ({"always_available": False}, {"fails": True}, {"over_selected": True}, {"deadline": True})
        ],
    ],
)
def test_the_sampling_of_a_run(facts, sampling) -> None:
    assert sampling_of(replace(FACTS, **facts)) == sampling


@pytest.mark.parametrize(
    ("fact", "sentence"),
    [
        ("synchronous", "asynchronous or buffered aggregation: speeds, and no known sampling, decide who is in a step"),
        ("bounded_weights", "unbounded weights: .* fixed denominator"),
        ("uniform_selection", "value-dependent selection: it reads the clients' private losses"),
    ],
)
def test_a_run_without_a_valid_epsilon_is_told_why(fact, sentence) -> None:
    for facts in (FACTS, replace(FACTS, cohort=2), replace(FACTS, participation_rates=UNEQUAL, deadline=True)):
        with pytest.raises(Unaccountable, match=f"^no epsilon for {sentence}"):
            sampling_of(replace(facts, **{fact: False}))


@pytest.mark.parametrize("kind", ["rdp", "pld"])
def test_an_example_is_released_once_an_epoch(kind) -> None:
    direct = accountant(kind).compose(dp.GaussianDpEvent(2.0), 5).get_epsilon(1e-5)
    assert example_epsilon(5, 2.0, 1e-5, kind) == direct
    assert example_epsilon(5, 0.0, 1e-5, kind) == math.inf


def test_without_the_library_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'fedsim-lab\[privacy\]'"):
        Ledger(EVERYBODY, 1.0, 1e-5).epsilon(1)


def test_left_out_orders_are_not_worth_a_warning(caplog) -> None:
    Ledger(POISSON, 1.0, 1e-5).epsilon(10)  # it leaves out five
    assert not caplog.records
