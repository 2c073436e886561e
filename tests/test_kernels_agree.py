"""Kernels compute what fedsim computes: their references beside its own rules, codecs and codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fedsim_kernels import OPS
from torch import Generator, Tensor

from fedsim.coding.matrices import coefficients, decoding
from fedsim.defences import Median, TrimmedMean
from fedsim.wire.codec import Draw, packed
from fedsim.wire.count_table import CountTable
from fedsim.wire.hadamard import transformed
from fedsim.wire.quantised import QSGD
from fedsim.wire.sketches import SRHT, hashes, signs
from fedsim.wire.sparse import TopK


def chance() -> Generator:
    return Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=chance())


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
    exact = torch.stack([(rows.double() - row.double()).square().sum(1) for row in rows])
    torch.testing.assert_close(apart, exact, rtol=2**-44, atol=0)
    assert apart.equal(apart.T)
    assert not apart.diagonal().any()


@pytest.mark.parametrize("size", [1, 64, 4096])
def test_the_hadamard_transform(size) -> None:
    rows = drawn(3, size)
    expected = torch.stack([transformed(row) for row in rows])
    torch.testing.assert_close(OPS["hadamard"].pick(rows), expected, rtol=2**-20, atol=2**-20 * size**0.5)


@pytest.mark.parametrize("replacement", [False, True])
def test_sketches_by_the_hadamard_transform_and_what_is_read_from_them(replacement) -> None:
    codec, rows = SRHT(ratio=0.6, replacement=replacement), drawn(3, 301)
    message = [codec.sketch(row, codec.rows(301), chance()) for row in rows]
    draw = chance()
    sign, taken = signs(512, draw), codec._taken(512, codec.rows(301), draw)
    found = OPS["srht"].pick(rows, sign, taken)
    torch.testing.assert_close(found, torch.stack(message), rtol=2**-20, atol=2**-20)
    lifted = torch.stack([codec.lift(each, 301, chance()) for each in message])
    torch.testing.assert_close(OPS["srht_lift"].pick(found, sign, taken, 301), lifted, rtol=2**-20, atol=2**-20)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_count_tables_and_what_is_read_from_them(count) -> None:
    codec, rows, draw = CountTable(rows=count, columns=0.2, kept=0.1), drawn(3, 301), Draw(seed=0, version=0)
    each = [hashes(301, codec.width(301), draw.fixed("CountTable", row)) for row in range(count)]
    place, sign = (torch.stack(parts) for parts in zip(*each, strict=True))
    tables = OPS["count_table"].pick(rows, place, sign, codec.width(301))
    expected = torch.stack([codec.table(row, draw) for row in rows])
    torch.testing.assert_close(tables, expected, rtol=2**-20, atol=2**-20)
    estimates = torch.stack([codec.estimate(table.flatten(), 301, draw) for table in tables])
    assert OPS["count_estimate"].pick(tables, place, sign).equal(estimates)


def test_qsgd() -> None:
    codec, vector, draw = QSGD(levels=5, bucket=64), drawn(301), Draw(seed=0, version=0)
    content = codec.encode(vector, draw)
    chances = torch.rand(5, 64, generator=draw.own("QSGD")).view(1, -1)[:, :301]
    norms, steps = OPS["quantise"].pick(vector[None], chances, codec.levels, codec.bucket)
    torch.testing.assert_close(norms[0], content[0], rtol=2**-22, atol=0)
    assert packed(steps[0], codec.bits).equal(content[1])
    read = OPS["dequantise"].pick(content[0][None], steps, codec.levels, codec.bucket)
    assert read[0].equal(codec.decode(content, 301, draw))


@pytest.mark.parametrize("kind", ["cyclic", "repetition"])
def test_gradient_codes(kind) -> None:
    chunks, heard = drawn(6, 301), np.array([0, 2, 3, 5])
    matrix = coefficients(kind, 6, 2, seed=0)
    messages = OPS["combinations"].pick(chunks, torch.from_numpy(matrix))
    for message, row in zip(messages, matrix, strict=True):
        total = torch.zeros(301, dtype=torch.float64)
        for chunk in row.nonzero()[0]:
            total.add_(chunks[chunk], alpha=row[chunk])
        torch.testing.assert_close(message, total, rtol=2**-50, atol=2**-50)
    weights = torch.from_numpy(decoding(matrix, heard))
    found = OPS["combinations"].pick(messages[heard], weights[None])
    torch.testing.assert_close(found[0], chunks.double().sum(dim=0), rtol=1e-9, atol=1e-9)


def test_chunks_that_do_not_count_may_be_anything() -> None:
    parts = torch.tensor([[1.0, 2.0], [torch.nan, torch.inf]])
    found = OPS["combinations"].pick(parts, torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
    assert found[0].tolist() == [2.0, 4.0]
    assert not found[1].isfinite().any()


@pytest.mark.parametrize("ratio", [0.001, 0.1, 1.0])
def test_the_largest_numbers(ratio) -> None:
    codec, vector = TopK(ratio=ratio), drawn(301)
    values, places = OPS["top_k"].pick(vector[None], codec.kept(301))
    expected = codec.encode(vector, Draw(seed=0, version=0))
    assert values[0].equal(expected[0])
    assert places[0].equal(expected[1])


def test_of_equals_the_first_are_kept_and_no_more_than_there_are() -> None:
    row = torch.tensor([[1.0, -2.0, 3.0, 2.0, -1.0, 2.0]])
    assert OPS["top_k"].pick(row, 3)[1].tolist() == [[1, 2, 3]]
    with pytest.raises(ValueError, match="of 6 numbers 0 to 6 can be kept, not 7"):
        OPS["top_k"].pick(row, 7)
