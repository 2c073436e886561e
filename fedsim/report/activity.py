"""What the fleet does when: everybody as counts, and clients as rows that can be searched."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedsim.picture import TIMES, unit_for
from fedsim.report.chart import PHASE_COLOURS, Chart, figure
from fedsim.spans import PHASES
from fedsim.units import SECOND

BINS = 240
MOST_SPANS = 150_000
"""More would make the page too large."""
FEW = 60
"""So many clients are shown as they are, of more those that versions have waited for, until others are searched."""
FIRST = 40


def counts(spans: pd.DataFrame, here: pd.DataFrame, seconds: float) -> Chart:
    """How many clients do what: means over bins of time, exact."""
    unit, scale = unit_for(TIMES, seconds)
    edges = np.linspace(0, max(1, seconds * SECOND), BINS + 1)
    busy = {phase: _mean(spans.loc[spans.phase == phase], edges) for phase in PHASES}
    waits = _mean(here, edges) - sum(busy.values())
    if len(here):
        busy["waits"] = np.maximum(waits, 0)
    middles = (edges[1:] + edges[:-1]) / 2 / SECOND / scale
    traces = [{"type": "scatter", "mode": "lines", "x": middles, "y": values, "name": name, "stackgroup": "all",
               "line": {"width": 0.5, "color": PHASE_COLOURS[name]}, "fillcolor": PHASE_COLOURS[name],
               "hovertemplate": "%{y:.2f}"} for name, values in busy.items()]  # fmt: skip
    drawn = figure(traces, f"virtual time ({unit})", "clients", hovermode="x unified",
                   xaxis={"range": [0, seconds / scale]})  # fmt: skip
    return Chart("what the fleet does", drawn, wide=True)


def _mean(rows: pd.DataFrame, edges: np.ndarray) -> np.ndarray:
    """How many of the spans cover each bin, on average."""
    covered = _covered(rows.begin.to_numpy(), edges) - _covered(rows.end.to_numpy(), edges)
    return np.diff(covered) / np.diff(edges)


def _covered(since: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The time since each of these until each edge, added up."""
    ordered = np.sort(since).astype(float)
    many = np.searchsorted(ordered, edges)
    return edges * many - np.append(0.0, np.cumsum(ordered))[many]


def timeline(spans: pd.DataFrame, clients: Sequence[int], first: Sequence[int], seconds: float) -> dict[str, Any]:
    """The spans as arrays that the page's script draws rows of; and which of them at first."""
    order = [*dict.fromkeys([*(client for client in first if client in clients), *clients])]
    held = spans.client.value_counts().reindex(order, fill_value=0).cumsum()
    kept = [client for client, total in held.items() if total <= MOST_SPANS or client == order[0]]
    rows = spans.loc[spans.client.isin(kept)]
    unit, scale = unit_for(TIMES, seconds)
    code = rows.phase.map({phase: place for place, phase in enumerate(PHASES)}).where(rows.ended != "lost", len(PHASES))
    shown = sorted(kept if len(clients) <= FEW else kept[:FIRST])
    return {
        "unit": unit, "phases": [*PHASES, "lost"], "colours": [PHASE_COLOURS[name] for name in (*PHASES, "lost")],
        "client": _packed(rows.client, "<i4"), "phase": _packed(code, "<i4"), "version": _packed(rows.version, "<i4"),
        "peer": _packed(rows.peer, "<i4"), "begin": _packed(rows.begin / SECOND / scale, "<f8"),
        "end": _packed(rows.end / SECOND / scale, "<f8"), "first": shown,
        "kept": len(kept), "clients": len(clients), "seconds": seconds / scale,
    }  # fmt: skip


def _packed(values: pd.Series, kind: str) -> str:
    return b64encode(values.to_numpy().astype(kind).tobytes()).decode()
