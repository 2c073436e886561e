"""Whatever bytes a reader is given, it reads them or says in one line what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedsim
from fedsim.errors import ScenarioError
from fedsim.scenario import read

ROOT = Path(__file__).parent.parent
VALID = (ROOT / "scenarios" / "quickstart.yaml").read_bytes()

BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))

CASES = {
    "control": b"seed: \x00\x01",
    "latin": "seed: é".encode("latin-1"),
    "surrogate": b"\xed\xa0\x80: 1",
    "listed key": b"{[1, 2]: 3}",
    "mapped key": b"{{a: 1}: 3}",
    "itself": b"seed: &a [*a]",
    "bomb": BOMB.encode(),
    "deep": b"[" * 5000,
    "deep and closed": b"a: " + b"[" * 3000 + b"]" * 3000,
    "odd number": b"seed: 0x_",
    "octal": b"seed: 09",
    "binary": b"seed: !!binary '!'",
    "tag": b"seed: !!python/object/apply:os.system [echo]",
    "two documents": b"seed: 1\n---\nseed: 2\n",
    "huge": b"seed: " + b"9" * 5000,
    "null key": b"? \n: 1\n",
    "nan": b"seed: .nan",
    "merge": b"<<: 3",
    "empty": b"",
}


def refused_or_read(path: Path, *overrides: str) -> str | None:
    """What is said against it; None: nothing, it was read."""
    try:
        read(path, overrides)
    except ScenarioError as error:
        return str(error) or "nothing"
    return None


@pytest.mark.parametrize("name", CASES)
def test_bytes_that_are_no_scenario_are_refused(tmp_path, name) -> None:
    (path := tmp_path / "x.yaml").write_bytes(CASES[name])
    said = refused_or_read(path)
    assert said is not None
    assert "x.yaml" in said


@settings(max_examples=150)
@given(st.binary(max_size=60))
def test_any_bytes(tmp_path, content) -> None:
    (path := tmp_path / "x.yaml").write_bytes(content)
    assert refused_or_read(path) != "nothing"


@settings(max_examples=150)
@given(st.integers(0, len(VALID)), st.integers(0, 12), st.binary(max_size=6))
def test_a_scenario_with_a_few_bytes_changed(tmp_path, start, length, put) -> None:
    (path := tmp_path / "x.yaml").write_bytes(VALID[:start] + put + VALID[start + length :])
    assert refused_or_read(path) != "nothing"


@settings(max_examples=150)
@given(st.text(alphabet="seed:{}[]&*!|>-?#, \n\t'\"0x1e.~=<%@`", max_size=40))
def test_signs_that_mean_something_to_yaml(tmp_path, text) -> None:
    (path := tmp_path / "x.yaml").write_text(text)
    assert refused_or_read(path) != "nothing"


@settings(max_examples=100)
@given(st.text(alphabet="seed.local=0123[]{}:,- x", max_size=20))
def test_any_override(text) -> None:
    assert refused_or_read(ROOT / "scenarios" / "quickstart.yaml", text) != "nothing"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A small run's folder."""
    base = {
        "seed": 1, "until": {"versions": 3}, "data": {"digits": {"partition": "iid"}}, "model": "logistic",
        "fleet": {"clients": 4, "devices": "constant"}, "aggregator": "fedavg", "evaluate": {"every": "1 h"},
        "local": {"steps": 2, "batch": 4, "optimizer": {"sgd": {"lr": 0.05}}},
    }  # fmt: skip
    return fedsim.run(base, out=tmp_path_factory.mktemp("runs"), picture=False).path


READ = {
    "trace.parquet/part-00000.parquet": "trace",
    "metrics.csv": "metrics",
    "model.safetensors": "weights",
    "links.parquet": "links",
    "receipt.json": "receipt",
    "scenario.yaml": "scenario",
}


@pytest.mark.parametrize("name", READ)
@settings(max_examples=25)
@given(data=st.data())
def test_a_damaged_run_folder_is_read_or_refused(finished, name, data) -> None:
    path = finished / name
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(st.sampled_from([whole[:start], whole[:start] + b"\xff" + whole[start + 1 :], b""]))
    try:
        path.write_bytes(damaged)
        try:
            getattr(fedsim.load(finished), READ[name])
        except ScenarioError as error:
            assert str(path.parent if "part" in name else path) in str(error)  # noqa: PT017
    finally:
        path.write_bytes(whole)
