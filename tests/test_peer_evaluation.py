"""What is said of the models of peers: their means, their merger, and how far apart they are."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pandas as pd
import pytest
import torch
from test_evaluation import dataset, setting
from torch import Tensor

import fedsim
from fedsim.data import Dataset, Iid, LabelSwap, Parts
from fedsim.evaluation import Evaluator, PeerEvaluator
from fedsim.models import MODELS, initial_params
from fedsim.progress import Progress, Until
from fedsim.rng import stream
from fedsim.vector import Layout
from fedsim.work import Measured


def judge_of(data: Dataset, clients: bool = False, peers: int = 4) -> tuple[PeerEvaluator, list[int], int]:
    """With what its module was asked, and how many parameters that has."""
    evaluator, _, params, asked = setting(data, Iid().split(data, peers, 1))
    return PeerEvaluator(evaluator, clients), asked, len(params)


def models(size: int, peers: int = 4, name: str = "models") -> list[Tensor]:
    return list(torch.from_numpy(stream(2, name).standard_normal((peers, size), dtype=np.float32)))


def by_hand(clients: bool = False) -> Measured:
    """Examples 1 and -1 of classes 0 and 1; peers whose scores are 3 x and -x, against 0."""
    x, y = torch.tensor([[1.0], [-1.0]]), torch.tensor([0, 1])
    module, _ = initial_params(lambda: MODELS["logistic"]((1,), 2), seed=1)
    evaluator = Evaluator(module, Layout.of(module), Dataset(x, y, x, y, 2), Parts([np.arange(1), np.arange(2)]))
    return PeerEvaluator(evaluator, clients)([torch.tensor([slope, 0.0, 0.0, 0.0]) for slope in (3.0, -1.0)])


def test_two_peers_by_hand() -> None:
    losses = [log(1 + exp(-3)), log(1 + exp(1))]
    expected = {
        "accuracy": 0.5, "loss": sum(losses) / 2,
        "merged_accuracy": 1.0, "merged_loss": log(1 + exp(-1)),
        "gap": 0.5, "consensus": 4.0,
    }  # fmt: skip
    measured = by_hand()
    assert measured.metrics == pytest.approx(expected, rel=1e-6)
    assert list(measured.metrics) == list(expected)
    assert not measured.clients


def test_each_peer_is_shown_where_that_is_asked_for() -> None:
    measured = by_hand(clients=True)
    assert {name: list(column) for name, column in measured.clients.items() if name != "loss"} == {
        "client": [0, 1], "examples": [1, 2], "accuracy": [1.0, 0.0],
    }  # fmt: skip
    assert measured.clients["loss"].tolist() == pytest.approx([log(1 + exp(-3)), log(1 + exp(1))], rel=1e-6)
    assert measured.metrics["accuracy_std"] == 0.5
    assert "merged_accuracy_std" not in measured.metrics


@pytest.mark.parametrize("number", range(5))
def test_merging_never_raises_a_convex_loss(number) -> None:
    """Jensen."""
    judge, _, size = judge_of(dataset())
    metrics = judge(models(size, 7, f"jensen {number}")).metrics
    assert metrics["merged_loss"] < metrics["loss"]
    assert metrics["gap"] == metrics["merged_accuracy"] - metrics["accuracy"]


def test_the_merged_model_is_the_mean_in_float64_and_the_others_stay_as_they_are() -> None:
    judge, _, size = judge_of(dataset())
    peers = models(size)
    copies = [params.clone() for params in peers]
    metrics = judge(peers).metrics
    merged = torch.stack(copies).double().mean(0)
    alone = setting(dataset(), Iid().split(dataset(), 4, 1))[0]
    assert metrics["merged_loss"] == alone(merged.float()).metrics["loss"]
    assert metrics["loss"] == pytest.approx(np.mean([alone(params).metrics["loss"] for params in copies]))
    distances = [float((params.double() - merged).square().sum()) for params in copies]
    assert metrics["consensus"] == pytest.approx(np.mean(distances))
    assert all(map(torch.equal, peers, copies))


def test_peers_that_agree_are_what_they_are() -> None:
    judge, asked, size = judge_of(dataset(n_test=43))
    [params] = models(size, 1)
    metrics = judge([params] * 7).metrics
    assert (metrics["consensus"], metrics["gap"]) == (0.0, 0.0)
    assert metrics["merged_loss"] == pytest.approx(metrics["loss"], rel=1e-12)
    assert sum(asked) == 2 * 43  # the one model, and the merged one, which is another tensor


def test_what_has_not_changed_is_not_measured_again() -> None:
    judge, asked, size = judge_of(dataset(n_test=43))
    peers = models(size)

    def newly(changed: list[Tensor]) -> tuple[Measured, int]:
        before = sum(asked)
        return judge(changed), (sum(asked) - before) // 43

    first, count = newly(peers)
    assert count == 5
    assert newly(list(peers)) == (first, 0)
    peers[1] = peers[1] + 1  # in the caller's list, which it may go on to use
    second, count = newly(peers)
    assert count == 2  # that one and the merged one
    assert second is not first
    assert newly(peers[::-1])[1] == 1
    fresh = judge_of(dataset(n_test=43))[0](peers)
    assert second.metrics == fresh.metrics
    assert newly([params.clone() for params in peers])[1] == 5


def test_regression_knows_losses_alone() -> None:
    x, y = torch.zeros(3, 0), torch.tensor([[0.0], [2.0], [4.0]])
    module, _ = initial_params(lambda: MODELS["logistic"]((0,), 1), seed=1)
    judge = PeerEvaluator(Evaluator(module, Layout.of(module), Dataset(x, y, x, y, 1), Parts([np.arange(3)] * 2)))
    metrics = judge([torch.tensor([0.0]), torch.tensor([4.0])]).metrics
    assert metrics == pytest.approx({"loss": 10 / 3, "merged_loss": 4 / 3, "consensus": 4.0})


# One model ------------------------------------------------------------------------------------------------------------


def test_one_model_is_measured_again_only_if_it_is_another_tensor() -> None:
    data = dataset(n_test=43)
    judge, _, params, asked = setting(data, LabelSwap(0.5, odd=(2, 3)).split(data, 4, 1), clients=True)
    first = judge(params)
    assert judge(params) is first
    assert sum(asked) == 43
    assert judge(params.clone()) is not first
    assert judge(params).metrics == first.metrics
    assert sum(asked) == 3 * 43


class Still:
    version, params = 0, torch.zeros(2)


def test_progress_takes_a_table_once() -> None:
    table = {"client": np.arange(2)}
    results = [Measured({"loss": 1.0}, table), Measured({"loss": 2.0}, table), Measured({"loss": 3.0})]
    order = iter([0, 0, 1, 1, 0, 2])
    progress = Progress(Until(versions=9), 1, evaluate=lambda params: results[next(order)])
    for now in range(6):
        progress.row(Still(), now * 1_000_000)
    assert [row["loss"] for row in progress.rows] == [1, 1, 2, 2, 1, 3]
    assert [entry["time_s"] for entry in progress.clients] == [0, 2, 4]


# Whole runs -----------------------------------------------------------------------------------------------------------

PEERS = {
    "seed": 3,
    "until": {"versions": 4},
    "data": "digits",
    "model": "logistic",
    "fleet": {"clients": 5, "devices": "fedscale"},
    "local": {"steps": 3, "batch": 8, "optimizer": {"sgd": {"lr": 0.1}}},
    "peers": {"gossip": {"mixing": {"directed_pull": {"partners": 0.5}}}},
    "evaluate": {"every": "1 s"},
}


def test_evaluating_peers_changes_nothing_else(tmp_path) -> None:
    often, seldom = (
        fedsim.run(PEERS, f"evaluate={{every: {every}, clients: {clients}}}", out=tmp_path)
        for every, clients in (("1 s", "true"), ("9 d", "false"))
    )
    assert len(often.metrics) > len(seldom.metrics) > 1
    for name in seldom.metrics:
        if name not in ("time_s", "staleness"):
            assert often.metrics[name].iloc[-1] == seldom.metrics[name].iloc[-1]
    digests = [run.receipt["digests"]["model.safetensors"] for run in (often, seldom)]
    assert digests[0] == digests[1]
    assert seldom.clients is None


def test_every_peer_has_a_row_whenever_somebody_has_moved(tmp_path) -> None:
    run = fedsim.run(PEERS, "evaluate={every: 100 ms, clients: true}", out=tmp_path)
    clients, metrics = run.clients, run.metrics.set_index("time_s")
    assert isinstance(clients, pd.DataFrame)
    assert list(clients) == ["time_s", "version", "client", "examples", "accuracy", "loss"]
    assert 1 < clients.time_s.nunique() < len(metrics)
    for time, rows in clients.groupby("time_s"):
        assert rows.client.tolist() == list(range(5))
        assert metrics.accuracy[time] == pytest.approx(rows.accuracy.mean())
        assert metrics.loss_std[time] == pytest.approx(rows.loss.std(ddof=0))
