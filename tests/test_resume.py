"""A run that is killed at any event and taken up again is the run that nobody has killed."""

from __future__ import annotations

import pytest
from kills import ALL, outcome, resumed, some, whole


@pytest.mark.parametrize("name", ALL)
def test_every_member_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch, name) -> None:
    base = ALL[name]
    found, turns = whole(tmp_path / "whole", base, monkeypatch)
    ends = some(turns, 3, name)
    again = resumed(tmp_path / "again", base, ends, monkeypatch)
    assert outcome(again) == outcome(found), ends
    assert not (again.path / "checkpoint").exists()
