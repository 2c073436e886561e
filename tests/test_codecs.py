"""Every codec, by the laws of its table: sizes are real; sketches are linear, with adjoints, and vary as they say."""

from __future__ import annotations

from itertools import product
from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim.rng import stream
from fedsim.vector import Layout
from fedsim.wire import CODECS, Codec, Draw, serialised
from fedsim.wire.codec import generator, packed, packed_bytes, unpacked
from fedsim.wire.hadamard import matrix, padded, transformed
from fedsim.wire.sketches import SRHT, CountSketch, RandK, Sketch, signs, some

LAYOUT = Layout.of(nn.Sequential(nn.Linear(9, 5), nn.Conv2d(2, 3, 3)))
SIZES = (1, 5, 64, 113)
EVERY: dict[str, list[dict]] = {
    "none": [{}], "float16": [{}], "top_k": [{"ratio": 0.1}, {"ratio": 1.0}],
    "qsgd": [{}, {"levels": 1, "bucket": 16}, {"levels": 127}], "sign": [{}, {"scale": "plain"}],
    "power_sgd": [{"rank": 1}, {"rank": 2}], "eden": [{}, {"bits": 4}],
    **{name: [{"ratio": 0.25}, {"ratio": 1.0}, {"ratio": 0.25, "fresh": False}]
       for name in ("gaussian", "rademacher", "countsketch", "rand_k")},
    "srht": [{"ratio": 0.25}, {"ratio": 1.0}, {"ratio": 0.25, "replacement": True}],
}  # fmt: skip
ALL = [(name, arguments) for name, ways in EVERY.items() for arguments in ways]
SKETCHES = [(name, arguments) for name, arguments in ALL if issubclass(CODECS[name], Sketch)]  # type: ignore[arg-type]


def make(name: str, arguments: dict) -> Codec:
    return CODECS[name](**arguments, **({"layout": LAYOUT} if name == "power_sgd" else {}))


def vector(size: int, *name: object) -> Tensor:
    return torch.from_numpy(stream(4, "vector", size, *name).standard_normal(size)).float()


def sizes(name: str) -> tuple[int, ...]:
    return (LAYOUT.size,) if name == "power_sgd" else SIZES


def through(codec: Codec, x: Tensor, draw: Draw) -> Tensor:
    """What arrives."""
    return codec.decode(codec.encode(x, draw), len(x), draw)


def test_every_codec_is_tried_here() -> None:
    assert set(EVERY) == set(CODECS)


# All of them ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "arguments"), ALL)
def test_a_message_has_the_size_that_was_said_before(name, arguments) -> None:
    codec = make(name, arguments)
    for size, x in product(sizes(name), ("noise", "zero", "huge")):
        value = {"noise": vector(size), "zero": torch.zeros(size), "huge": 1e20 * vector(size)}[x]
        assert len(serialised(codec.encode(value, Draw(1, 2)))) == codec.nbytes(size)


@pytest.mark.parametrize(("name", "arguments"), ALL)
def test_what_arrives_depends_on_the_address_and_on_nothing_else(name, arguments) -> None:
    codec, before = make(name, arguments), torch.get_rng_state()
    for size in sizes(name):
        x, draw = vector(size), Draw(1, version=2, client=3, ordinal=4)
        arrived = through(codec, x, draw)
        assert arrived.shape == x.shape
        assert arrived.dtype == torch.float32
        torch.testing.assert_close(arrived, through(codec, x, Draw(1, 2, 3, 4)), rtol=0, atol=0)
        assert not through(codec, torch.zeros(size), draw).any() or name in ("sign",)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("name", "arguments"), [(n, a) for n, a in ALL if n not in ("power_sgd",)])
def test_an_unbiased_codec_is_right_on_average_and_varies_as_it_says(name, arguments) -> None:
    """Monte Carlo at d = 64: the mean of many draws within five standard errors, the second moment within six."""
    codec, draws = make(name, arguments), 3000
    x = vector(64)
    said = codec.moment(64) if getattr(codec, "fresh", True) else None
    unbiased = said is not None or name == "eden"
    if not unbiased:
        return
    arrived = torch.stack([through(codec, x, Draw(1, turn, 0, turn)) for turn in range(draws)]).double()
    error = arrived.std(dim=0) / sqrt(draws)
    assert ((arrived.mean(dim=0) - x.double()).abs() <= 5 * error + 1e-5).all()
    ratios = arrived.square().sum(dim=1) / x.double().square().sum()
    if said is not None:
        slack = 6 * float(ratios.std()) / sqrt(draws) + 1e-5
        assert float(ratios.mean()) <= said + slack
        if name != "qsgd":
            assert float(ratios.mean()) >= said - slack


# Sketches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "arguments"), SKETCHES)
@pytest.mark.parametrize("size", SIZES)
def test_a_sketch_is_linear_and_what_reads_it_is_its_adjoint(name, arguments, size) -> None:
    """sk(x + y) = sk(x) + sk(y), <R x, y> = <x, R^T y>; so averages of messages are messages of averages."""
    codec, draw = make(name, arguments), Draw(1, 5)
    x, y = vector(size, "x"), vector(size, "y")
    [one], [other], [both] = (codec.encode(each, draw) for each in (x, y, 2 * x - y))
    torch.testing.assert_close(2 * one - other, both, rtol=1e-4, atol=1e-4)
    content = vector(len(one), "content")
    left, right = one @ content, x @ codec.decode((content,), size, draw)
    assert float((left - right).abs()) <= 1e-5 * float(one.norm() * content.norm() + 1e-30)
    mean = codec.decode(((one + other) / 2,), size, draw)
    apart = (through(codec, x, draw) + through(codec, y, draw)) / 2
    torch.testing.assert_close(mean, apart, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 5, 64, 100])
def test_all_rows_of_srht_lose_nothing(size) -> None:
    """b the padded d, without replacement: R^T R = I."""
    codec, x = SRHT(ratio=1.0), vector(size)
    for version in range(5):
        torch.testing.assert_close(through(codec, x, Draw(1, version)), x, rtol=1e-5, atol=1e-6)
    assert codec.moment(size) == pytest.approx(1.0)


@pytest.mark.parametrize(("name", "arguments"), [pair for pair in SKETCHES if pair[1].get("ratio", 1) < 1])
def test_r_is_new_for_every_version_and_the_same_for_all_clients(name, arguments) -> None:
    codec, x = make(name, arguments), vector(64)
    [first], [same] = (codec.encode(x, Draw(1, 5, client, ordinal)) for client, ordinal in ((0, 0), (7, 3)))
    [later], [elsewhere] = codec.encode(x, Draw(1, 6)), codec.encode(x, Draw(2, 5))
    assert torch.equal(first, same)
    assert torch.equal(first, later) == (not arguments.get("fresh", True))
    assert not torch.equal(first, elsewhere)


@pytest.mark.parametrize("name", ["gaussian", "rademacher", "countsketch", "srht", "rand_k"])
def test_fixed_sketches_never_leave_a_subspace_and_fresh_ones_do(name) -> None:
    """What can ever be read from R^T is its range, of b dimensions: ten updates by a fixed R lie in it."""
    for fresh in (False, True):
        codec = make(name, {"ratio": 0.125, "fresh": fresh})
        updates = torch.stack([through(codec, vector(64, turn), Draw(1, turn)) for turn in range(20)]).double()
        rank = int(torch.linalg.matrix_rank(updates, rtol=1e-5))
        assert rank == (20 if fresh else 8)


def test_dense_sketches_are_what_their_matrix_says() -> None:
    """Column by column, R as it is; drawn in blocks, and the same when lifted."""
    for name, size in product(("gaussian", "rademacher", "srht", "countsketch", "rand_k"), (7, 64)):
        codec, draw = make(name, {"ratio": 0.5}), Draw(3, 1)
        columns = torch.stack([codec.encode(unit, draw)[0] for unit in torch.eye(size)], dim=1)
        rows = len(columns)
        lifted = torch.stack([codec.decode((unit,), size, draw) for unit in torch.eye(rows)])
        torch.testing.assert_close(columns, lifted, rtol=1e-5, atol=1e-6)
        if name == "countsketch":
            assert ((columns != 0).sum(dim=0) == 1).all()
        if name in ("rademacher", "srht"):
            torch.testing.assert_close(columns.abs(), torch.full_like(columns, 1 / sqrt(rows)))


def test_large_vectors_need_no_large_matrix() -> None:
    """A million numbers, of which SRHT keeps a hundredth: as a matrix R would have 10 ** 10 entries."""
    x = vector(10**6)
    for codec in (SRHT(ratio=0.01), CountSketch(ratio=0.01), RandK(ratio=0.01)):
        y = through(codec, x, Draw(1, 1))
        assert float(x @ y) == pytest.approx(float(x @ x), rel=0.1)


@pytest.mark.parametrize("count", [0, 1, 999, 9_000, 19_000, 20_000])
def test_some_places_are_any_places(count) -> None:
    """Distinct, ascending, each as likely as any other; few or nearly all of many."""
    drawn = [some(20_000, count, generator(5, turn)) for turn in range(40)]
    for places in drawn:
        assert len(places) == count
        assert (places.diff() > 0).all()
        assert count == 0 or (int(places[0]) >= 0 and int(places[-1]) < 20_000)
    tenths = torch.cat(drawn).div(2_000, rounding_mode="floor").bincount(minlength=10)
    spread = 6 * sqrt(40 * count * 0.09) + 1e-9
    assert ((tenths - 4 * count).abs() <= spread).all()


def test_signs_are_fair() -> None:
    drawn = signs(100_003, generator(5, "signs"))
    assert drawn.unique().tolist() == [-1, 1]
    assert abs(float(drawn.sum())) < 5 * sqrt(100_003)
    assert abs(float(drawn[1:] @ drawn[:-1])) < 5 * sqrt(100_003)


# Hadamard -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", range(15))
def test_the_fast_transform_is_the_matrix_product(power) -> None:
    x = vector(2**power).double()
    torch.testing.assert_close(transformed(transformed(x)), 2**power * x)
    if power < 10:
        torch.testing.assert_close(transformed(x), matrix(power).double() @ x)


def test_padding_is_the_next_power_of_two() -> None:
    assert [padded(size) for size in (1, 2, 3, 4, 5, 1023, 1024, 1025)] == [1, 2, 4, 4, 8, 1024, 1024, 2048]


# The others -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
def test_packing_leaves_no_gap(bits) -> None:
    for count in (1, 7, 8, 9, 100):
        numbers = torch.from_numpy(np.random.default_rng(bits).integers(2**bits, size=count))
        content = packed(numbers, bits)
        assert content.dtype == torch.uint8
        assert len(content) == packed_bytes(count, bits) == -(-count * bits // 8)
        assert torch.equal(unpacked(content, bits, count).long(), numbers)


def test_top_k_keeps_the_largest() -> None:
    x = torch.tensor([0.1, -5.0, 2.0, 0.0, -3.0])
    assert through(make("top_k", {"ratio": 0.4}), x, Draw(1, 1)).tolist() == [0, -5, 0, 0, -3]


def test_signs_carry_their_mean_size() -> None:
    x = torch.tensor([0.5, -1.5, 4.0])
    assert through(make("sign", {}), x, Draw(1, 1)).tolist() == [2, -2, 2]
    assert through(make("sign", {"scale": "plain"}), x, Draw(1, 1)).tolist() == [1, -1, 1]


def test_qsgd_rounds_to_steps_of_its_buckets_norm() -> None:
    codec, x = make("qsgd", {"levels": 4, "bucket": 4}), torch.tensor([3.0, 0, 0, 4.0, 1.0])
    arrived = through(codec, x, Draw(1, 1, 0, 7))
    steps = arrived[:4] * 4 / 5
    torch.testing.assert_close(steps, steps.round())
    assert float(arrived[4]) == 1.0
    assert codec.nbytes(5) == 2 * 4 + 3


def test_eden_needs_fewer_bits_for_less_error_than_theory_allows() -> None:
    """Relative squared error of normal numbers by 1 to 4 bits, made unbiased: 1 / (1 - D) - 1 for the quantiser's D."""
    x = vector(2**14)
    for bits, distortion in zip((1, 2, 3, 4), (0.3634, 0.1175, 0.03454, 0.009497), strict=True):
        error = through(make("eden", {"bits": bits}), x, Draw(1, 1)) - x
        assert float(error.square().sum() / x.square().sum()) == pytest.approx(1 / (1 - distortion) - 1, rel=0.05)


def test_a_matrix_of_low_rank_passes_power_sgd_whole_from_the_second_message_on() -> None:
    """The query of one message is where the next one begins."""
    layout = Layout(("weight", "bias"), ((20, 30), (7,)))
    codec = CODECS["power_sgd"](layout=layout, rank=2)
    rng = np.random.default_rng(0)
    low = rng.standard_normal((20, 2)) @ rng.standard_normal((2, 30))
    x = torch.from_numpy(np.concatenate([low.ravel(), rng.standard_normal(7)])).float()
    memory: dict[str, Tensor] = {}
    torch.testing.assert_close(through(codec, x, Draw(1, 1, memory=memory)), x, rtol=1e-3, atol=1e-4)
    full = torch.from_numpy(rng.standard_normal(607)).float()
    errors = [float((through(codec, full, Draw(1, 1, memory=memory)) - full).norm()) for _ in range(10)]
    assert errors[-1] < errors[0]
    best = torch.linalg.svdvals(full[:600].view(20, 30))[2:].norm()
    assert errors[-1] == pytest.approx(float(best), rel=0.02)
    assert codec.nbytes(607) == 4 * (2 * 50 + 7)
