"""Adaptive projected guidance: the paper's formula, digits that are drawn anew, and what a denoiser is asked."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import numbers
from torch import nn
from worlds import Recording

from fedsim import experiment, scenario
from fedsim.data.generative import NoisyDigits, SeededDigits
from fedsim.errors import ScenarioError
from fedsim.exams.guidance import Guidance
from fedsim.exams.guided import Guided
from fedsim.exams.likeness import frechet, nearest_classes

NEAR = {"rtol": 1e-6, "atol": 1e-6}
WITH, WITHOUT = numbers(4, 7), numbers(4, 7).roll(1, 0) * 0.6


# The rule -------------------------------------------------------------------------------------------------------------


def test_without_its_parts_it_is_classifier_free_guidance() -> None:
    for scale in (1.0, 2.0, 7.5):
        found, d = Guidance(scale).combine(WITH, WITHOUT)
        torch.testing.assert_close(found, WITHOUT + scale * (WITH - WITHOUT), **NEAR)
        assert torch.equal(d, WITH - WITHOUT)


def test_at_scale_one_nothing_is_guided() -> None:
    found, _ = Guidance(1.0, radius=0.5, momentum=-0.75, eta=0.0).combine(WITH, WITHOUT, WITHOUT)
    assert torch.equal(found, WITH)


def test_what_is_added_is_orthogonal_and_no_longer_than_the_radius() -> None:
    found, _ = Guidance(5.0, radius=0.5, eta=0.0).combine(WITH, WITHOUT)
    added = (found - WITH) / 4
    torch.testing.assert_close((added * WITH).sum(1), torch.zeros(4), atol=2e-6, rtol=0)
    assert bool((added.norm(dim=1) <= 0.5 + 1e-6).all())
    d = WITH - WITHOUT
    short = d * (0.5 / d.norm(dim=1, keepdim=True)).clamp_max(1)
    whole, _ = Guidance(5.0, radius=0.5).combine(WITH, WITHOUT)
    torch.testing.assert_close(whole, WITH + 4 * short, **NEAR)
    near, _ = Guidance(5.0, radius=1e6).combine(WITH, WITHOUT)
    torch.testing.assert_close(near, Guidance(5.0).combine(WITH, WITHOUT)[0], **NEAR)


def test_a_half_of_eta_counts_the_parallel_part_by_half() -> None:
    ends = [Guidance(3.0, eta=eta).combine(WITH, WITHOUT)[0] for eta in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(ends[1], (ends[0] + ends[2]) / 2, **NEAR)
    assert not torch.allclose(ends[0], ends[2], **NEAR)


def test_what_points_along_the_prediction_is_taken_away_whole() -> None:
    found, _ = Guidance(9.0, eta=0.0).combine(WITH, 0.3 * WITH)
    torch.testing.assert_close(found, WITH, **NEAR)
    same, _ = Guidance(9.0, radius=2.5, eta=0.0).combine(WITH, WITH)
    torch.testing.assert_close(same, WITH, **NEAR)


def test_momentum_is_of_the_differences_before_they_are_shortened() -> None:
    rule, d = Guidance(2.0, radius=0.1, momentum=-0.75), WITH - WITHOUT
    _, first = rule.combine(WITH, WITHOUT)
    _, second = rule.combine(WITH, WITHOUT, first)
    assert torch.equal(first, d)
    torch.testing.assert_close(second, d - 0.75 * d, **NEAR)
    _, other = rule.combine(WITH, WITHOUT, 3 * WITHOUT)
    torch.testing.assert_close(other, d - 0.75 * 3 * WITHOUT, **NEAR)
    again, _ = rule.combine(WITH, WITHOUT)
    assert torch.equal(again, rule.combine(WITH, WITHOUT)[0]), "nothing is remembered but what is given"
    for k in range(4):
        alone = rule.combine(WITH[k : k + 1], WITHOUT[k : k + 1], d[k : k + 1])[0]
        torch.testing.assert_close(alone[0], rule.combine(WITH, WITHOUT, d)[0][k], **NEAR)


# Likeness -------------------------------------------------------------------------------------------------------------


def test_the_distance_of_normals_is_frechets() -> None:
    from scipy.linalg import sqrtm

    draw = np.random.default_rng(3)
    ones, others = draw.normal(size=(50, 4)), draw.normal(size=(60, 4)) @ draw.normal(size=(4, 4)) + 1
    spread, other = np.cov(ones, rowvar=False), np.cov(others, rowvar=False)
    expected = np.square(ones.mean(0) - others.mean(0)).sum() + np.trace(
        spread + other - 2 * sqrtm(spread @ other).real
    )
    assert frechet(ones, others) == pytest.approx(expected, rel=1e-8)
    assert frechet(ones, ones) == pytest.approx(0, abs=1e-9)
    assert frechet(others, ones) == pytest.approx(frechet(ones, others), rel=1e-9)


def test_known_pictures_have_their_own_class() -> None:
    data = NoisyDigits(seed=1, draws=1, unlabelled=0.0).load()
    classes = data.x[:, -10:].argmax(1).numpy()
    assert (nearest_classes(data.y.numpy(), data.y.numpy(), classes) == classes).mean() > 0.97


# The data -------------------------------------------------------------------------------------------------------------


def test_noise_is_on_the_way_from_the_digit() -> None:
    data = NoisyDigits(seed=1, draws=3, unlabelled=0.25).load()
    level, codes = data.x[:, 64:65], data.x[:, 65:]
    noise = (data.x[:, :64] - (1 - level) * data.y) / level
    assert float(noise[level[:, 0] > 0.3].std()) == pytest.approx(1, abs=0.02)
    assert float(level.min()) >= 0
    assert float(level.mean()) == pytest.approx(0.5, abs=0.02)
    assert set(codes.sum(1).tolist()) == {0.0, 1.0}
    assert float((codes.sum(1) == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(data.y.min()) == -1
    assert float(data.y.max()) == 1
    third = len(data) // 3
    assert torch.equal(data.y[:third], data.y[third : 2 * third])
    assert not torch.equal(data.x[:third], data.x[third : 2 * third])


def test_every_training_has_the_next_draw_of_the_same_digits() -> None:
    source = SeededDigits(seed=1, draws=3, latent=5)
    data, parts = source.load(), source.partition.split(source.load(), 4, seed=2)
    assert data.shape == (69,)
    for client in range(4):
        first, second, fourth = (data.x[parts.held(client, ordinal)] for ordinal in (0, 1, 3))
        assert np.array_equal(parts.held(client, 0), parts.indices[client])
        assert torch.equal(first[:, :64], second[:, :64])
        assert not torch.equal(first[:, 64:], second[:, 64:])
        assert torch.equal(first, fourth)
    assert data.y.unique(dim=0).tolist() == [[1.0, 0.0]]


# The exam -------------------------------------------------------------------------------------------------------------

MAKES = {
    "seed": 2,
    "until": {"versions": 2},
    "data": {"noisy_digits": {"draws": 2}},
    "model": {"mlp": {"hidden": [16]}},
    "fleet": {"clients": 5, "devices": "fedscale"},
    "local": {"steps": 4, "batch": 32, "optimizer": {"adam": {"lr": 0.002}}},
    "aggregator": {"fedavg": {"cohort": "all"}},
    "evaluate": {"every": "1 h", "exam": {"guided": {"scales": [1, 3], "samples": 40, "steps": 4}}},
}


def made(**changes) -> experiment.Experiment:
    [arm] = scenario.read(MAKES | changes)
    return experiment.assemble(arm)


def test_a_perfect_denoiser_makes_what_it_knows() -> None:
    """Its prediction is the mean digit of the class, whatever the noise: all samples are that."""
    data = NoisyDigits(seed=1, draws=1, unlabelled=0.0).load()
    means = torch.stack([data.y[data.x[:, 65:].argmax(1) == digit].mean(0) for digit in range(10)])
    module = nn.Linear(75, 64)
    named = {"weight": torch.cat((torch.zeros(64, 65), means.T), 1), "bias": torch.zeros(64)}
    exam = Guided(scales=(1.0,), samples=30, steps=5, seed=0)
    pictures = exam.sampled(module, named, Guidance(1.0), torch.arange(30) % 10)
    torch.testing.assert_close(pictures, means.repeat(3, 1), rtol=0, atol=1e-5)
    assert exam.grade(module, named, data)["agreement_cfg_1"] == 1.0
    stronger = exam.sampled(module, named, Guidance(2.0), torch.arange(30) % 10)
    torch.testing.assert_close(stronger, 2 * means.repeat(3, 1), rtol=0, atol=1e-5)


def test_any_server_learns_a_denoiser_and_the_exam_draws_nothing() -> None:
    state = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    for aggregator in ({"fedavg": {"cohort": "all"}}, {"fedbuff": {"concurrency": 4, "goal": 2}}):
        simulation = made(aggregator=aggregator).simulation(Recording())
        state = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
        simulation.run()
        first, last = simulation.progress.rows[0], simulation.progress.rows[-1]
        assert last["loss"] < first["loss"]
        names = {f"{kind}_{rule}_{scale}" for kind in ("frechet", "saturation", "agreement")
                 for rule in ("cfg", "apg", "projected") for scale in (1, 3)}  # fmt: skip
        assert names <= set(last)
        assert last["frechet_apg_1"] == last["frechet_cfg_1"]
        assert last["frechet_apg_3"] != last["frechet_cfg_3"]
    assert random.getstate() == state[0]
    assert np.array_equal(np.random.get_state()[1], state[1])
    assert torch.equal(torch.random.get_rng_state(), state[2])


def test_other_data_have_no_denoisers() -> None:
    with pytest.raises(ScenarioError, match="guided samples are of denoisers"):
        made(data="digits")
    with pytest.raises(ScenarioError, match="greater than or equal to 1"):
        made(evaluate={"every": "1 h", "exam": {"guided": {"scales": [0.5]}}})


def test_the_same_seed_makes_the_same_pictures() -> None:
    module, wanted = nn.Linear(75, 64), torch.arange(6)
    named = {name: part.detach() for name, part in module.named_parameters()}
    exam = Guided(seed=3, steps=3)
    ones, same = (exam.sampled(module, named, Guidance(2.0), wanted) for _ in range(2))
    assert torch.equal(ones, same)
    assert not torch.equal(replace(exam, seed=4).sampled(module, named, Guidance(2.0), wanted), ones)
