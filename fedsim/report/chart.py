"""What a page shows: charts and tables as plain data, which its script draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PALETTE = ("#2f6fde", "#e8743b", "#19a979", "#945ecf", "#d6336c", "#13a4b4", "#8a6d1f", "#6b7785")
"""Of algorithms, in turn."""
PHASE_COLOURS = {
    "download": "#5b9bd5",
    "train": "#f2a541",
    "upload": "#3f9e6b",
    "waits": "#dfe3e8",
    "before": "#c3cad3",
    "lost": "#d64545",
}


@dataclass(frozen=True)
class Chart:
    """One of plotly's figures, with what is to say of it."""

    title: str
    figure: Mapping[str, Any]
    note: str = ""
    wide: bool = False
    """Whether it takes the whole width of the page, and more of its height."""


@dataclass(frozen=True)
class Column:
    """How a column is written: as it is, or as a `time` (s), `bytes`, `energy` (J), a `number`, a `whole` one."""

    name: str
    unit: str = "text"


@dataclass(frozen=True)
class Table:
    """Rows that can be searched and sorted."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    search: str = ""
    """What the search field says while it is empty; none: there is no such field."""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"columns": [vars(column) for column in self.columns], "rows": [list(row) for row in self.rows]}


@dataclass(frozen=True)
class Section:
    """A part of a page."""

    title: str
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    note: str = ""
    timeline: Mapping[str, Any] | None = None
    pre: str = ""
    """Text as it is."""
    facts: Sequence[tuple[str, str]] = field(default=())
    """Names and values that are read first."""


def figure(traces: Sequence[Any], x: str, y: str, **layout: Any) -> dict[str, Any]:
    """Plotly's figure of these traces as plain data; its look is the page's."""
    import plotly.graph_objects as go

    drawn = go.Figure(data=list(traces), layout={"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}})
    drawn.update_layout(template=None, **layout)
    return drawn.to_plotly_json()
