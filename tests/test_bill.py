"""Bills of small runs, by hand."""

from __future__ import annotations

import pytest
from test_waits import events

from fedsim.bill import Rates, bill, usage
from fedsim.errors import ScenarioError
from fedsim.spans import spans

THREE = events(
    (0, "start", 0, 0), (0, "start", 1, 0), (2_000_000, "train", 0, 0, 10_000), (3_000_000, "train", 1, 0, 10_000),
    (7_000_000, "upload", 0, 0), (9_000_000, "arrive", 0, 0, 20_000), (9_000_000, "lost", 1, 0, 5_000),
    (9_000_000, "version", -1, 1),
)  # fmt: skip
RATES = Rates.of(["training_watts=3", "sending_watts=2", "receiving_watts=1", "kwh_price=3.6", "gb_price=100"])


def test_usage_by_hand() -> None:
    """0 receives for 2 s, trains for 5, sends for 2; 1 receives for 3 and trains for 6, in vain, with a part sent."""
    used = usage(spans(THREE), [0, 1, 2], RATES)
    assert used.joules.tolist() == [2 + 15 + 4, 3 + 18, 0]
    assert used[["down", "up"]].to_numpy().tolist() == [[10_000, 20_000], [10_000, 5_000], [0, 0]]
    assert used.money.tolist() == pytest.approx([21e-6 + 3e-3, 21e-6 + 1.5e-3, 0])


def test_bill_by_hand() -> None:
    used = usage(spans(THREE), [0, 1, 2], RATES)
    lines = bill(used, seconds=7200.0, down=20_000, up=25_000, rates=RATES, served=True)
    found = {(line.item, line.unit): (line.amount, line.source) for line in lines}
    assert found["virtual time", "s"] == (7200.0, "simulated")
    assert found["clients' training", "s"] == (11.0, "simulated")
    assert found["energy of the clients", "J"] == (42.0, "given")
    assert found["price of the energy", "money"] == (pytest.approx(42e-6), "given")
    assert found["price of the traffic", "money"] == (pytest.approx(4.5e-3), "given")
    assert found["price of the server", "money"] == (pytest.approx(2.0), "synthetic")
    assert found["price in all", "money"] == (pytest.approx(2.0 + 4.5e-3 + 42e-6), "given and synthetic")


def test_peers_pay_no_server_and_a_client_s_share_is_all() -> None:
    used = usage(spans(THREE), [0, 1, 2], RATES)
    lines = bill(used, seconds=7200.0, down=20_000, up=25_000, rates=RATES, served=False)
    assert "price of the server" not in {line.item for line in lines}
    assert lines[-1].amount == pytest.approx(used.money.sum())


def test_defaults_are_called_synthetic() -> None:
    lines = bill(usage(spans(THREE), [0, 1], Rates()), 1.0, 0, 0, Rates(), served=True)
    assert {line.source for line in lines if line.unit in ("J", "money")} == {"synthetic"}


@pytest.mark.parametrize(
    ("said", "sentence"),
    [("gb_prise=1", "there is no rate 'gb_prise'; did you mean gb_price"), ("gb_price=much", "expected a number"),
     ("gb_price=-1", "expected a number of at least 0"), ("gb_price=nan", "expected"), ("given=1", "no rate 'given'")],
)  # fmt: skip
def test_what_is_no_rate_is_one_line(said, sentence) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        Rates.of([said])
