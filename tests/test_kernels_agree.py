"""Kernels compute what fedsim computes: their references beside its own rules, codecs and codes."""

from __future__ import annotations

import pytest
import torch
from fedsim_kernels import OPS
from torch import Tensor

from fedsim.defences import Median, TrimmedMean
from fedsim.defences.defence import distances


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("clients", [1, 2, 5, 8])
def test_the_median(clients) -> None:
    rows = drawn(clients, 301)
    torch.testing.assert_close(OPS["median"].pick(rows), Median().combine(list(rows)).vector, rtol=0, atol=0)


@pytest.mark.parametrize("liars", [0, 1, 3])
def test_the_trimmed_mean(liars) -> None:
    rows = drawn(8, 301)
    expected = TrimmedMean(liars=liars).combine(list(rows)).vector
    torch.testing.assert_close(OPS["trimmed_mean"].pick(rows, liars), expected, rtol=2**-23, atol=2**-23)


def test_of_few_clients_the_trimmed_mean_is_the_median() -> None:
    rows = drawn(4, 301)
    assert OPS["trimmed_mean"].pick(rows, 9).equal(OPS["median"].pick(rows))


def test_distances_of_models_near_each_other() -> None:
    rows = 1000 + drawn(5, 301) / 1000
    apart = OPS["distances"].pick(rows)
    torch.testing.assert_close(apart, distances(rows.double()), rtol=2**-44, atol=0)
    assert apart.equal(apart.T)
    assert not apart.diagonal().any()
