"""BatchNorm without buffers: what it computes, how it is calibrated, and that a merge needs it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

import fedsim
from fedsim.models import MODELS, check_trainable
from fedsim.models.normalisation import BatchNorm, estimated, fixed
from fedsim.vector import Layout


def batches(count: int = 5) -> list[torch.Tensor]:
    draws = torch.Generator().manual_seed(3)
    return [torch.randn(8, 4, 6, 6, generator=draws) * 3 + 1 for _ in range(count)]


def pair() -> tuple[nn.Module, nn.Module]:
    """Ours and torch's, of the same parameters; two layers, so that the first one's statistics matter to the second."""
    ours, theirs = (nn.Sequential(norm(4), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False), norm(5)) for norm in
                    (BatchNorm, lambda channels: nn.BatchNorm2d(channels, momentum=None)))  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        for parameter in theirs.parameters():
            nn.init.normal_(parameter)
    ours.load_state_dict(dict(theirs.named_parameters()))
    return ours, theirs


def test_in_training_it_is_torchs() -> None:
    ours, theirs = pair()
    for x in batches():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_calibrated_it_is_torchs_with_cumulative_averages() -> None:
    ours, theirs = pair()
    first, *others = batches()
    with torch.no_grad():
        for x in others:
            theirs(x)
        theirs.eval()
        with fixed([ours], estimated(ours, dict(ours.named_parameters()), others)):
            torch.testing.assert_close(ours(first), theirs(first), rtol=1e-5, atol=1e-5)
            one = ours(first[:1])
        torch.testing.assert_close(one, theirs(first[:1]), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(ours(first[:1]), one)  # outside, it is the batch's own again


def test_statistics_do_not_outlive_an_error() -> None:
    ours, _ = pair()
    statistics = estimated(ours, dict(ours.named_parameters()), batches())
    with pytest.raises(RuntimeError, match="on purpose"), fixed([ours], statistics):
        raise RuntimeError("on purpose")
    assert all(layer.fixed is None and layer.collected is None for layer in ours if isinstance(layer, BatchNorm))


def test_a_model_without_it_looks_at_no_batch() -> None:
    with fixed([nn.Linear(2, 2)], estimated(nn.Linear(2, 2), {}, [torch.zeros(3)])):
        pass


def test_per_client_gradients_are_those_of_the_clients_own_batch() -> None:
    model = MODELS["resnet"]((1, 8, 8), 3, width=8, blocks=(1,), norm="batch")
    check_trainable(model)
    layout = Layout.of(model)
    params = layout.unflatten(layout.flatten(model).repeat(2, 1))
    draws = torch.Generator().manual_seed(5)
    x = torch.randn(2, 6, 1, 8, 8, generator=draws)
    both = torch.vmap(lambda named, x: functional_call(model, named, (x,)))(params, x)
    alone = [functional_call(model, {name: rows[k] for name, rows in params.items()}, (x[k],)) for k in range(2)]
    torch.testing.assert_close(both, torch.stack(alone), rtol=1e-5, atol=1e-5)


SCENARIO = {
    "until": {"versions": 3},
    "data": {"digits": {"partition": {"dirichlet": {"alpha": 0.3}}}},
    "model": {"resnet": {"width": 8, "blocks": [1], "norm": "batch"}},
    "fleet": {"clients": 4, "devices": {"linear": {"slowest": "1 s", "fastest": "1 s"}}},
    "local": {"steps": 5, "batch": 16, "optimizer": {"sgd": {"lr": 0.05}}},
    "peers": {"gossip": {"mixing": "none", "merge": "last"}},
    "evaluate": {"every": "1 s"},
}


def test_peers_with_batchnorm_are_the_same_on_every_executor(tmp_path) -> None:
    found = [fedsim.run(SCENARIO, f"executor={how}", out=tmp_path, picture=False) for how in ("inline", "stacked")]
    one, other = (run.receipt["digests"] for run in found)
    assert one["peers.safetensors"] == other["peers.safetensors"]
    assert not any("running" in name for name in found[0].weights)
    assert found[0].metrics.merged_loss.iloc[-1] < found[0].metrics.merged_loss.iloc[0]
