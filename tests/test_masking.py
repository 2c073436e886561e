"""Secure aggregation: exact sums whoever drops out above the threshold, nothing below it, and honest sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import fsum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.rng import stream
from fedsim.wire import shamir
from fedsim.wire.agreement import PRIME, KeyPair, PublicKey, expand
from fedsim.wire.fixed_point import FixedPoint
from fedsim.wire.masking import (
    BothShares,
    Client,
    Exchange,
    MaskedInput,
    Parcels,
    Roster,
    Server,
    Survivors,
    TooFewClients,
    traffic,
)


@dataclass
class Round:
    """A round over clients 3, 5, 7, ...: who takes part in each step, and every message of it."""

    vectors: np.ndarray
    threshold: int
    steps: Sequence[Sequence[int]]
    word: int = 4
    seed: int = 0
    sent: list[dict[int, bytes]] = field(default_factory=list, init=False)
    """What each client sends, step by step."""
    heard: list[dict[int, bytes]] = field(default_factory=list, init=False)
    """What each client that has sent in a step hears after it."""

    def __post_init__(self) -> None:
        self.clients = {each: Client(each, self.threshold, self.word, self.seed) for each in ids(len(self.vectors))}
        self.server = Server(self.threshold, self.word)

    def note(self, up: Sequence, down: dict) -> None:
        self.sent.append({message.client: message.to_bytes() for message in up})
        self.heard.append({client: message.to_bytes() for client, message in down.items()})

    def masked(self) -> list[MaskedInput]:
        """The first three steps."""
        keys = [self.clients[each].advertise_keys() for each in self.steps[0]]
        roster = self.server.roster(keys)
        self.note(keys, dict.fromkeys(self.steps[0], roster))
        shares = [self.clients[each].share_keys(roster) for each in self.steps[1]]
        self.parcels = self.server.forward(shares)
        self.note(shares, self.parcels)
        vectors = dict(zip(self.clients, self.vectors, strict=True))
        return [self.clients[each].masked_input(self.parcels[each], vectors[each]) for each in self.steps[2]]

    def total(self) -> np.ndarray:
        inputs = self.masked()
        survivors = self.server.survivors(inputs)
        self.note(inputs, dict.fromkeys(self.steps[2], survivors))
        answers = [self.clients[each].unmask(survivors) for each in self.steps[3]]
        self.note(answers, {})
        return self.server.total(answers)


def ids(count: int) -> list[int]:
    return [3 + 2 * number for number in range(count)]


def full(vectors: np.ndarray, threshold: int, **settings) -> Round:
    """A round in which nobody drops out."""
    return Round(vectors, threshold, [ids(len(vectors))] * 4, **settings)


def encoded(code: FixedPoint, clients: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(clients)
    return np.stack([code.encode(rng.uniform(-1, 1, size)) for _ in range(clients)])


@st.composite
def rounds(draw: st.DrawFn) -> tuple[int, int, list[list[int]]]:
    """How many clients, the threshold, and who is there at each step, in a random order of arrival."""
    clients = draw(st.integers(2, 7))
    threshold = draw(st.integers(2, clients))
    present, steps = ids(clients), []
    for _ in range(4):
        present = draw(st.permutations(present))[: draw(st.integers(threshold, len(present)))]
        steps.append(present)
    return clients, threshold, steps


@settings(deadline=None, max_examples=40)
@given(rounds(), st.sampled_from([16, 40]), st.integers(1, 5), st.integers(0, 2**31))
def test_the_sum_of_those_who_sent_is_exact(world, bits, size, seed) -> None:
    clients, threshold, steps = world
    code = FixedPoint(bits, bound=2.0, summands=clients)
    floats = np.random.default_rng(seed).uniform(-2, 2, (clients, size))
    vectors = np.stack([code.encode(vector) for vector in floats])
    total = Round(vectors, threshold, steps, word=code.word, seed=seed).total()
    sent = [each in steps[2] for each in ids(clients)]
    modulus = 2 ** (8 * code.word)
    assert total.dtype == np.uint64
    assert total.tolist() == [sum(column) % modulus for column in vectors[sent].T.tolist()]
    plain = [fsum(column) for column in floats[sent].T]
    assert np.abs(code.decode(total) - plain).max() <= code.error


def test_below_the_threshold_there_is_no_sum() -> None:
    vectors, everybody = np.ones((4, 2), np.uint64), ids(4)
    for step in range(4):
        steps = [everybody] * step + [everybody[:2]] * (4 - step)
        with pytest.raises(TooFewClients, match="needs 3 clients, and there are 2"):
            Round(vectors, 3, steps).total()


def test_a_client_takes_part_with_too_few_others_in_nothing() -> None:
    round = full(np.ones((4, 2), np.uint64), threshold=3)
    client, few = round.clients[3], [round.clients[each].advertise_keys() for each in (3, 5)]
    with pytest.raises(TooFewClients):
        client.share_keys(Roster(tuple(few)))
    round.masked()
    one = dict(list(round.parcels[3].sealed.items())[:1])
    with pytest.raises(TooFewClients):
        client.masked_input(Parcels(3, one), np.ones(2, np.uint64))
    with pytest.raises(TooFewClients):
        client.unmask(Survivors((3, 5)))


@pytest.mark.parametrize("word", [4, 8])
def test_a_masked_input_looks_uniform(word) -> None:
    """Every byte of it, by a chi-square test with 255 degrees of freedom: 255 +- 5 standard deviations."""
    size = 20_000
    masked = full(np.zeros((3, size), np.uint64), threshold=2, word=word, seed=1).masked()
    for message in masked:
        columns = np.frombuffer(message.to_bytes()[4:], np.uint8).reshape(size, word)
        for column in columns.T:
            counts = np.bincount(column, minlength=256)
            assert abs(((counts - size / 256) ** 2).sum() / (size / 256) - 255) < 5 * np.sqrt(2 * 255)


def test_other_seeds_and_other_clients_mask_otherwise() -> None:
    vectors = np.zeros((3, 500), np.uint64)
    masked = [m.vector for seed in (1, 2) for m in full(vectors, threshold=2, seed=seed).masked()]
    for one, other in combinations(masked, 2):
        assert (one == other).mean() < 0.01
    assert len({expand((1 << bit).to_bytes(32), 4, 8).tobytes() for bit in range(128, 256)}) == 128


def test_a_survivor_gives_one_share_of_each() -> None:
    round = full(np.ones((5, 2), np.uint64), threshold=3)
    round.masked()
    client, survivors = round.clients[5], Survivors((3, 5, 9))
    answer = client.unmask(survivors)
    assert (set(answer.seeds), set(answer.keys)) == ({3, 5, 9}, {7, 11})
    assert client.unmask(Survivors((9, 5, 3))) == answer
    for others in [(3, 5, 7, 9), (5, 9, 11), (3, 5, 7)]:
        with pytest.raises(BothShares, match="client 5 gives one share"):
            client.unmask(Survivors(others))


@pytest.mark.parametrize("survivors", [(3, 7, 9), (3, 5, 7, 99)], ids=["not itself", "a stranger"])
def test_a_client_answers_no_odd_question(survivors) -> None:
    round = full(np.ones((4, 2), np.uint64), threshold=3)
    round.masked()
    with pytest.raises(ValueError, match="client 5"):
        round.clients[5].unmask(Survivors(survivors))


def test_order_of_arrival_does_not_matter() -> None:
    vectors, everybody = encoded(FixedPoint(16, 1.0, 5), 5, 3), ids(5)
    steps = [everybody, everybody, everybody[:4], everybody[1:4]]
    forth, back = Round(vectors, 3, steps), Round(vectors, 3, [step[::-1] for step in steps])
    assert forth.total().tolist() == back.total().tolist()
    assert (forth.sent, forth.heard) == (back.sent, back.heard)


def test_a_seed_says_it_all() -> None:
    vectors = encoded(FixedPoint(16, 1.0, 4), 4, 3)
    one, again, other = (full(vectors, 3, seed=seed) for seed in (1, 1, 2))
    assert one.total().tolist() == again.total().tolist() == other.total().tolist()
    assert (one.sent, one.heard) == (again.sent, again.heard)
    for step, another in zip(one.sent, other.sent, strict=True):
        assert all(step[client] != another[client] for client in step)
    assert len({message[at : at + 256] for message in one.sent[0].values() for at in (4, 260)}) == 8


@pytest.mark.parametrize("word", [4, 8])
@pytest.mark.parametrize("counts", [(6, 6, 6), (6, 5, 5), (6, 6, 3), (5, 4, 3)])
def test_sizes_are_those_of_the_messages(counts, word) -> None:
    advertised, shared, sent = counts
    everybody, size = ids(6), 11
    steps = [everybody[:count] for count in (*counts, sent)]
    round = Round(np.ones((6, size), np.uint64), 3, steps, word=word)
    round.total()
    told = traffic(size * word, advertised, shared, sent)
    assert list(told) == ["advertise_keys", "share_keys", "masked_input", "unmask"]
    for exchange, up, down in zip(told.values(), round.sent, round.heard, strict=True):
        assert {len(message) for message in up.values()} == {exchange.up}
        assert {len(message) for message in down.values()} == ({exchange.down} if down else set())
    assert told["unmask"] == Exchange(4 + 70 * shared, 0)


def test_shares_are_sealed() -> None:
    round = full(np.ones((3, 2), np.uint64), threshold=2)
    round.masked()
    parcels = round.parcels[3]
    assert round.clients[3].key(3, 5) == round.clients[5].key(3, 5) != round.clients[3].key(5, 3)
    broken = {peer: sealed[:-20] + bytes([sealed[-20] ^ 1]) + sealed[-19:] for peer, sealed in parcels.sealed.items()}
    for wrong in (Parcels(3, broken), Parcels(3, dict(zip((5, 7), list(parcels.sealed.values())[::-1], strict=True)))):
        round.clients[3].masked_input(wrong, np.ones(2, np.uint64))
        with pytest.raises(ValueError, match="not what was sealed"):
            round.clients[3].unmask(Survivors((3, 5)))


def test_only_encoded_vectors_are_masked() -> None:
    round = full(np.ones((3, 2)), threshold=2)
    with pytest.raises(ValueError, match="float64"):
        round.masked()


def arctangent(inverse: int, one: int) -> int:
    """Of 1 / inverse, in units of 1 / one."""
    term, total, odd = one // inverse, 0, 1
    while term:
        total += term // odd if odd % 4 == 1 else -(term // odd)
        term, odd = term // inverse**2, odd + 2
    return total


def test_the_group_is_number_14() -> None:
    """As RFC 3526 defines its prime: with the digits of pi."""
    one = 2 ** (1918 + 64)
    pi = 4 * (4 * arctangent(5, one) - arctangent(239, one)) >> 64
    assert 2**2048 - 2**1984 - 1 + 2**64 * (pi + 124476) == PRIME


def test_both_ends_agree() -> None:
    one, other = (int.from_bytes(stream(1, "test", end).bytes(32)) for end in range(2))
    shared = pow(2, one * other, PRIME)
    assert KeyPair(one).agree(PublicKey(pow(2, other, PRIME))) == shared
    assert KeyPair(other).agree(PublicKey(pow(2, one, PRIME))) == shared
    ends = KeyPair(one), KeyPair(other)
    assert ends[0].agree(ends[1].public) == ends[1].agree(ends[0].public) == shared


@pytest.mark.parametrize(("count", "threshold"), [(2, 2), (4, 2), (5, 3), (6, 6)])
def test_so_many_shares_give_the_secret_and_fewer_do_not(count, threshold) -> None:
    rng = stream(0, "test", count)
    secret = int.from_bytes(rng.bytes(32))
    shares = shamir.share(secret, threshold, ids(count), rng)
    assert list(shares) == ids(count)
    assert all(value.bit_length() <= 8 * shamir.SHARE for value in shares.values())
    for some in combinations(shares.items(), threshold):
        assert shamir.reconstruct(dict(some)) == shamir.reconstruct(dict(some[::-1])) == secret
    for few in combinations(shares.items(), threshold - 1):
        assert shamir.reconstruct(dict(few)) != secret
    assert shamir.reconstruct(shares) == secret


@pytest.mark.parametrize(
    ("secret", "threshold", "points"),
    [(1, 1, [1, 2]), (1, 3, [1, 2]), (1, 2, [1, 1]), (1, 2, [0, 1]), (-1, 2, [1, 2]), (shamir.FIELD, 2, [1, 2])],
)
def test_what_cannot_be_shared(secret, threshold, points) -> None:
    with pytest.raises(ValueError, match=r"shar|points|secret"):
        shamir.share(secret, threshold, points, stream(0))


@settings(deadline=None)
@given(st.integers(2, 53), st.floats(1e-6, 1e6), st.integers(1, 8), st.integers(0, 2**31))
def test_fixed_point_sums_are_as_near_as_stated(bits, bound, summands, seed) -> None:
    code = FixedPoint(bits, bound, summands)
    floats = np.random.default_rng(seed).uniform(-bound, bound, (summands, 6))
    floats[:, 0], floats[:, 1] = bound, -bound
    vectors = np.stack([code.encode(vector) for vector in floats])
    assert vectors.dtype == np.uint64
    assert int(vectors.max()) < 2 ** (8 * code.word)
    total = code.decode(vectors.sum(axis=0))
    assert np.abs(total - [fsum(column) for column in floats.T]).max() <= code.error
    assert code.error <= summands * code.step * (0.5 + 2.0 ** (bits - 52))


def test_fixed_point_clips_and_takes_single_precision() -> None:
    code = FixedPoint(bits=8, bound=1.0, summands=1)
    assert code.decode(code.encode(np.array([7, -np.inf, 0.5], np.float32))).tolist() == [1, -1, 64 / 127]
    with pytest.raises(ValueError, match="not a number"):
        code.encode(np.array([0.0, np.nan]))


def test_the_modulus_is_the_smaller_that_fits() -> None:
    assert [FixedPoint(16, 1.0, 2**16).word, FixedPoint(16, 1.0, 2**17).word] == [4, 8]
    assert [FixedPoint(16, 1.0, 10).nbytes(7), FixedPoint(40, 1.0, 10).nbytes(7)] == [28, 56]


@pytest.mark.parametrize(
    ("bits", "bound", "summands"),
    [(1, 1.0, 2), (54, 1.0, 2), (53, 1.0, 2**12), (16, 0.0, 2), (16, np.inf, 2), (16, np.nan, 2), (16, 1.0, 0)],
)
def test_what_does_not_fit_a_modulus(bits, bound, summands) -> None:
    with pytest.raises(ValueError, match=r"bits|bound|summand"):
        FixedPoint(bits, bound, summands)
