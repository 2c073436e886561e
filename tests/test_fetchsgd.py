"""FetchSGD against its paper's rule on the matrix of its sketch; what it sends up and down."""

from __future__ import annotations

import numpy as np
import torch
from servers import Driver, roster
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.aggregators import FetchSGD
from fedsim.rng import stream
from fedsim.trace import ARRIVE, TRAIN
from fedsim.wire import Draw
from fedsim.wire.count_table import CountTable

SIZE = 40


def test_it_is_the_papers_rule() -> None:
    """S as a matrix in float64, the estimate as medians of its transpose; ten rounds."""
    rule = FetchSGD(torch.zeros(SIZE), roster(), cohort=3, rows=3, columns=0.5, kept=0.1, momentum=0.8, lr=0.7)
    sketch = torch.stack([rule.codec.table(unit, Draw(0, 0)) for unit in torch.eye(SIZE)], dim=-1).double().numpy()
    driver, velocity, error, params = Driver(rule, 6), 0.0, 0.0, np.zeros(SIZE)
    for turn in range(10):
        busy = sorted(driver.busy)
        deltas = {client: stream(1, turn, client).standard_normal(SIZE) for client in busy}
        driver.turn({client: torch.from_numpy(delta).float() for client, delta in deltas.items()})
        velocity = 0.8 * velocity + sketch @ np.mean([deltas[client] for client in busy], axis=0)
        error = error + velocity
        estimate = np.median([sign.T @ row for sign, row in zip(sketch, error, strict=True)], axis=0)
        step = np.zeros(SIZE)
        places = np.argsort(-np.abs(estimate))[:4]
        step[places] = estimate[places]
        error = error - sketch @ step
        params = params + 0.7 * step
        np.testing.assert_allclose(rule.params, params, rtol=1e-4, atol=1e-5)


def test_what_stands_out_is_found() -> None:
    """Five large numbers among a thousand small ones, in a table of half their size."""
    codec, x = CountTable(rows=5, columns=0.1, kept=0.005), torch.from_numpy(stream(2, "x").standard_normal(1000))
    x = 0.02 * x.float()
    x[[3, 77, 500, 501, 999]] = torch.tensor([5.0, -4.0, 6.0, 3.0, -5.0])
    found = codec.estimate(codec.table(x, Draw(0, 0)), 1000, Draw(0, 9))
    assert sorted(found.abs().topk(5).indices.tolist()) == [3, 77, 500, 501, 999]
    assert codec.nbytes(1000) == 4 * 5 * 100
    assert codec.step_bytes(1000) == 8 * 5


def test_tables_go_up_and_large_numbers_come_down() -> None:
    [arm] = scenario.read({
        "until": {"versions": 6}, "data": "digits", "model": "logistic",
        "fleet": {"clients": 6, "devices": "fedscale"},
        "local": {"steps": 1, "batch": 16, "optimizer": {"sgd": {"lr": 0.1}}},
        "aggregator": {"fetchsgd": {"cohort": "all", "rows": 3, "columns": 0.1, "kept": 0.02}},
        "evaluate": {"every": "1 h"},
    })  # fmt: skip
    run = experiment.assemble(arm).simulation(Recording())
    run.run()
    assert {row[4] for row in run.trace.of(ARRIVE)} == {4 * 3 * 65}
    assert [row[4] for row in run.trace.of(TRAIN)][:12] == [0] * 6 + [8 * 13] * 6
