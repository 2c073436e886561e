"""Gradient leakage: what is recovered, from what, and what a low loss does not say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from fedsim.attacks import ATTACKS
from fedsim.attacks.leakage import (
    DLG,
    IDLG,
    InvertingGradients,
    Sight,
    matched,
    mse,
    possible_labels,
    psnr,
    solve_linear,
)
from fedsim.models import initial_params, logistic
from fedsim.vector import Layout


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 8, 8) in [0, 1], and labels."""
    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels.reshape(-1, 8, 8) / 16), torch.from_numpy(labels).long()


def linear() -> nn.Module:
    return logistic((8, 8), 10)


def mlp(smooth: type[nn.Module] = nn.Sigmoid, bias: bool = True) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), smooth(), nn.Linear(16, 10, bias=bias))


def sight(build: Callable[[], nn.Module], *rows: int, **known) -> Sight:
    """The message of a client with these digits."""
    model, params = initial_params(build, seed=0)
    seen = Sight(
        model=model, layout=Layout.of(model), params=params, message=params, shape=(8, 8), classes=10, batch=len(rows),
        **known,
    )  # fmt: skip
    x, y = digits()
    return replace(seen, message=seen.sent(x[[*rows]], seen.one_hot(y[[*rows]])).detach())


def gaussian(numbers: int, size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((numbers, size)) / math.sqrt(numbers))


def noisy(seen: Sight, sigma: float, seed: int) -> Sight:
    noise = np.random.default_rng(seed).standard_normal(len(seen.message))
    return replace(seen, message=seen.message + sigma * torch.from_numpy(noise))


def quality(found, *rows: int) -> float:
    return psnr(found.x, digits()[0][[*rows]], data_range=1)


ORTHOGONAL = torch.linalg.qr(gaussian(650, 650))[0]
OPERATORS = {
    "plain": {},
    "gaussian of P": {"sketch": gaussian(650, 650).mv},
    "gaussian of more": {"sketch": gaussian(700, 650).mv},
    "orthogonal": {"sketch": ORTHOGONAL.mv, "adjoint": ORTHOGONAL.T.mv},
}


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=list(OPERATORS))
def test_a_linear_model_gives_its_example_away_exactly(operator) -> None:
    for row in range(5):
        found = solve_linear(sight(linear, row, **operator))
        assert mse(found.x, digits()[0][[row]]) < 1e-15
        assert found.y == digits()[1][row]
        assert found.loss < 1e-15


def test_so_does_any_model_whose_first_layer_is_fully_connected() -> None:
    assert mse(solve_linear(sight(mlp, 3)).x, digits()[0][[3]]) < 1e-15


def test_what_cannot_be_solved_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 649"):
        solve_linear(sight(linear, 0, sketch=gaussian(649, 650).mv))
    with pytest.raises(ValueError, match="one example"):
        solve_linear(sight(linear, 0, 1))
    with pytest.raises(ValueError, match="first layer"):
        solve_linear(sight(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)), 0))


@pytest.mark.parametrize(("smooth", "row"), [(nn.Sigmoid, 0), (nn.Sigmoid, 1), (nn.Tanh, 2), (nn.Tanh, 3)])
def test_dlg_recovers_from_the_plain_gradient(smooth, row) -> None:
    found = DLG().run(sight(lambda: mlp(smooth), row), seed=1)
    assert quality(found, row) > 80
    assert found.y == digits()[1][row]
    assert found.loss < 1e-9


@pytest.mark.parametrize("smooth", [nn.Sigmoid, nn.Tanh])
def test_idlg_recovers_better_still(smooth) -> None:
    for row in range(5):
        found = IDLG(restarts=1).run(sight(lambda: mlp(smooth), row), seed=1)
        assert quality(found, row) > 110
        assert found.steps < 50


@pytest.mark.parametrize("numbers", [16, 32, 48])
def test_a_loss_of_zero_is_not_recovery(numbers) -> None:
    """With fewer numbers than pixels another image matches, even if the label is known."""
    for row in range(3):
        seen = sight(mlp, row, sketch=gaussian(numbers, 1210).mv)
        for attack, view in [(DLG(restarts=1), seen), (IDLG(restarts=1), replace(seen, labels=digits()[1][[row]]))]:
            found = attack.run(view, seed=1)
            assert found.loss < 1e-12
            assert quality(found, row) < 15


def test_few_numbers_are_no_protection_from_a_prior() -> None:
    """From 0 to 1, and many values are 0: that is enough, of the same message as above, which DLG makes nothing of."""
    for row in range(3):
        seen = sight(mlp, row, sketch=gaussian(48, 1210).mv, labels=digits()[1][[row]])
        assert quality(InvertingGradients(iterations=300).run(seen, seed=1), row) > 20


def test_with_a_number_for_each_free_value_a_sketch_hides_nothing() -> None:
    """64 pixels and 9 of the label; 74 numbers."""
    assert quality(DLG().run(sight(mlp, 0, sketch=gaussian(74, 1210).mv), seed=1), 0) > 60


def test_noise_protects_the_more_the_more_there_is() -> None:
    """Ten times the noise costs 20 dB, as the example that matches moves in proportion."""
    attack, means = IDLG(restarts=1), []
    for sigma in (1e-4, 1e-3, 1e-2, 1e-1):
        found = [attack.run(noisy(sight(mlp, row), sigma, seed=row), seed=1) for row in range(5)]
        means.append(np.mean([quality(each, row) for row, each in enumerate(found)]))
    assert means[0] > 60
    assert np.diff(means) == pytest.approx([-20, -20, -20], abs=2)


def test_noise_protects_from_dlg_too() -> None:
    found = [quality(DLG(restarts=1).run(noisy(sight(mlp, 0), sigma, 0), seed=1), 0) for sigma in (0, 1e-3, 1e-1)]
    assert found[0] > 80
    assert found[0] > found[1] + 20 > found[2] + 40


@pytest.mark.parametrize("build", [linear, mlp, lambda: mlp(nn.ReLU), lambda: mlp(bias=False)])
def test_the_label_is_read_off_the_gradient(build) -> None:
    """Always: of 20 random examples, at random parameters."""
    for row in np.random.default_rng(0).choice(1797, 20, replace=False):
        found = IDLG(iterations=1, restarts=1).run(sight(build, row), seed=1)
        assert found.y == digits()[1][row]


def test_the_label_shows_through_a_sketch_with_an_adjoint() -> None:
    matrix = gaussian(128, 1210)
    for row in range(20):
        labels = possible_labels(sight(mlp, row, sketch=matrix.mv, adjoint=matrix.T.mv))
        assert [each.tolist() for each in labels] == [[digits()[1][row]]]


def test_without_an_adjoint_every_label_is_tried() -> None:
    seen = sight(mlp, 2, sketch=gaussian(300, 1210).mv)
    assert len(possible_labels(seen)) == 10
    found = IDLG(iterations=30, restarts=1).run(seen, seed=1)
    assert found.y == 2
    assert quality(found, 2) > 100
    with pytest.raises(ValueError, match="too many"):
        possible_labels(replace(seen, classes=11))


def test_labels_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(ValueError, match="batch of 2"):
        InvertingGradients().run(sight(mlp, 0, 1), seed=1)
    model, params = initial_params(lambda: nn.Linear(3, 2, bias=False), seed=0)
    seen = Sight(model=model, layout=Layout.of(model), params=params, message=params, shape=(3,), classes=2)
    with pytest.raises(ValueError, match="two classes"):
        possible_labels(seen)


@pytest.mark.parametrize("smooth", [nn.Sigmoid, nn.Tanh])
def test_inverting_gradients_recovers(smooth) -> None:
    attack = InvertingGradients(iterations=300)
    for row in range(3):
        found = attack.run(sight(lambda: mlp(smooth), row), seed=1)
        assert quality(found, row) > 50
        assert found.loss < 1e-5
        assert found.x.min() >= 0
        assert found.x.max() <= 1


def test_smoothness_has_its_price_where_the_gradient_says_all() -> None:
    weights = (0, 1e-3, 1e-1)
    found = [quality(InvertingGradients(iterations=300, total_variation=w).run(sight(mlp, 0), 1), 0) for w in weights]
    assert found == sorted(found, reverse=True)


def test_batches_come_out_in_any_order() -> None:
    rows = (0, 1)
    found = DLG(restarts=1).run(sight(mlp, *rows), seed=1)
    assert quality(found, *rows) > 80
    assert sorted(found.y.tolist()) == [0, 1]
    known = sight(mlp, 0, 1, 2, 3, labels=digits()[1][:4])
    assert quality(IDLG(restarts=1).run(known, seed=1), 0, 1, 2, 3) > 100


def test_quality() -> None:
    true = digits()[0][:5]
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(matched(true[order], true), true)
    assert psnr(true[order], true, 1) == math.inf
    assert mse(true[order] + 0.1, true) == pytest.approx(0.01)
    assert psnr(true + 0.1, true, 1) == pytest.approx(20)
    assert psnr(255 * true + 25.5, 255 * true, 255) == pytest.approx(20)


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_repeat_themselves_and_leave_the_world_alone(name) -> None:
    attack, seen = ATTACKS[name](iterations=15, restarts=2), sight(mlp, 0)
    states = torch.get_rng_state(), repr(np.random.get_state())
    first, again, other = attack.run(seen, 1), attack.run(seen, 1), attack.run(seen, 2)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == repr(np.random.get_state())
    assert torch.equal(first.x, again.x)
    assert (first.loss, first.steps) == (again.loss, again.steps)
    assert not torch.equal(first.x, other.x)
    assert torch.equal(seen.layout.flatten(seen.model), seen.params.float())
    assert first.x.shape == (1, 8, 8)
    assert first.y.dtype == torch.int64


def test_the_best_start_counts() -> None:
    seen = sight(lambda: mlp(nn.Tanh), 3)
    attack = DLG(iterations=20, restarts=4)
    losses = [found.loss for found in attack.attempts(seen, 1)]
    assert attack.run(seen, 1).loss == min(losses) < max(losses)
