"""An audit by a canary: what can really be told from models never beats the ledger, and an audit notices a lie."""

from __future__ import annotations

from math import inf, log

import numpy as np
import pytest
import torch
from scipy.stats import beta
from servers import Driver, roster

from fedsim.aggregators import FedAvg
from fedsim.rng import chance
from fedsim.vector import Layout
from fedsim.wire import Draw
from fedsim.wire.ledger import Ledger, Sampling
from fedsim.wire.privacy import Flat, Noise, Privacy

SIZE, CLIENTS, ROUNDS, TRIALS, DELTA = 6, 4, 4, 1500, 1e-2
CLIP = 0.5
CANARY = torch.eye(SIZE)[0] * 100
"""What it sends before it is clipped."""


def told(noise: Noise, trial: int, inserted: bool, rate: float = 1.0) -> float:
    """How far the model has moved towards the canary after some rounds, in clip norms of a sum."""
    layout = Layout(("all",), ((SIZE,),))
    privacy = Privacy(trial, layout, Flat(CLIP), noise, expected=CLIENTS)
    aggregator = FedAvg(torch.zeros(SIZE), roster(), cohort=CLIENTS, weights="expected")
    aggregator.shield = privacy.step
    driver = Driver(aggregator, CLIENTS)
    for turn in range(ROUNDS):
        for client in range(CLIENTS):
            here = inserted and client == 0 and chance(trial, "canary", turn) < rate
            sent, _ = privacy.protected(CANARY if here else torch.zeros(SIZE), Draw(trial, turn, client, turn))
            driver.hear(client, sent)
    return float(aggregator.params[0]) * CLIENTS / CLIP


def audited(noise: Noise, rate: float = 1.0) -> float:
    """A lower bound of epsilon, right in 95 of 100 audits: Jagielski, Ullman and Oprea (NeurIPS 2020).

    From how often a threshold, chosen on other trials, tells with from without: log (hits - delta) / alarms, by
    Clopper-Pearson intervals.
    """
    scores = np.array([[told(noise, trial, inserted, rate) for trial in range(TRIALS)] for inserted in (False, True)])
    half = TRIALS // 2
    thresholds = np.quantile(scores[:, :half], np.linspace(0.02, 0.98, 40))
    best = max(thresholds, key=lambda threshold: bound(scores[:, :half], threshold))
    return bound(scores[:, half:], best)


def bound(scores: np.ndarray, threshold: float) -> float:
    alarms, hits = (scores > threshold).sum(axis=1)
    count = scores.shape[1]
    most = beta.ppf(0.975, alarms + 1, count - alarms) if alarms < count else 1.0
    least = beta.ppf(0.025, hits, count - hits + 1) if hits else 0.0
    return log((least - DELTA) / most) if least > DELTA else -inf


@pytest.mark.parametrize("by", ["server", "clients"])
def test_a_canary_tells_something_and_never_more_than_the_ledger(by) -> None:
    ledger = Ledger(Sampling("everybody"), 1.5, DELTA)
    found = audited(Noise(1.5, by))
    assert 0.5 < found <= ledger.epsilon(ROUNDS)


def test_nor_where_clients_are_sampled() -> None:
    ledger = Ledger(Sampling("poisson", rate=0.25), 1.0, DELTA)
    assert audited(Noise(1.0, "server"), rate=0.25) <= ledger.epsilon(ROUNDS)


def test_an_audit_notices_a_fifth_of_the_noise() -> None:
    ledger = Ledger(Sampling("everybody"), 3.0, DELTA)
    assert audited(Noise(0.6, "server")) > ledger.epsilon(ROUNDS)
