"""A run that is killed at any event and taken up again is the run that nobody has killed."""

from __future__ import annotations

import pytest
from kills import ALL, outcome, resumed, some, whole
from remembering import MEMORIES

TABLE = ALL | MEMORIES


@pytest.mark.parametrize("name", TABLE)
def test_it_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch, name) -> None:
    """Every member of the families that tell what happens when, and every kind of memory."""
    base = TABLE[name]
    found, turns = whole(tmp_path / "whole", base, monkeypatch)
    ends = some(turns, 3, name)
    again = resumed(tmp_path / "again", base, ends, monkeypatch)
    assert outcome(again) == outcome(found), ends
    assert not (again.path / "checkpoint").exists()
