"""The network of a run: nodes by accuracy, links by load."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedsim.drawing import ACCURACIES, LINKS, Portrait
from fedsim.picture import SIZES, unit_for
from fedsim.report.chart import Chart, figure
from fedsim.terminal import traffic

SHADES = 8
"""Links are drawn in so many steps of load, the busiest on top."""
SYMBOLS = {"client": "circle", "server": "square", "edge": "diamond", "hub": "circle", "router": "circle"}
WIDTHS = {"client": 11, "server": 18, "edge": 14, "hub": 7, "router": 5}


def network(portrait: Portrait) -> Chart:
    """As `fedsim draw` has it, but for the mouse."""
    loads, nodes = portrait.whole_loads(), list(portrait.graph)
    unit, scale = ("% of capacity", 1.0) if portrait.shares else unit_for(SIZES, float(loads.max(initial=0.0)))
    traces = [*_links(portrait, loads), _middles(portrait, loads / scale, unit), *_nodes(portrait, nodes)]
    hidden = {"visible": False, "showgrid": False, "zeroline": False}
    drawn = figure(traces, "", "", showlegend=False, hovermode="closest", xaxis=hidden,
                   yaxis=hidden | {"scaleanchor": "x"})  # fmt: skip
    most = f"{loads.max(initial=0.0) / scale:.3g} {unit}"
    return Chart("the network", drawn, f"links by load, at most {most} (red); {portrait.note}", wide=True)


def _links(portrait: Portrait, loads: np.ndarray) -> list[dict[str, Any]]:
    spots, edges = portrait.graph.graph["places"], list(portrait.graph.edges)
    share = loads / max(float(loads.max(initial=0.0)), 1e-12)
    shade = np.minimum((share * SHADES).astype(int), SHADES - 1)
    found = []
    for step in range(SHADES):
        own = [spot for place in np.flatnonzero(shade == step)
               for spot in (spots[edges[place][0]], spots[edges[place][1]], (None, None))]  # fmt: skip
        red, green, blue, _ = LINKS(step / (SHADES - 1))
        colour = f"rgb({red * 255:.0f},{green * 255:.0f},{blue * 255:.0f})"
        found.append({"type": "scatter", "mode": "lines", "x": [x for x, _ in own], "y": [y for _, y in own],
                      "line": {"color": colour, "width": 0.8 + 3.2 * step / SHADES}, "hoverinfo": "skip"})  # fmt: skip
    return found


def _middles(portrait: Portrait, loads: np.ndarray, unit: str) -> dict[str, Any]:
    """What a link says of itself where the mouse is."""
    spots, links = portrait.graph.graph["places"], portrait.run.links
    edges = list(portrait.graph.edges(data=True))
    middles = np.array([(spots[one] + spots[other]) / 2 for one, other, _ in edges]).reshape(-1, 2)
    carried = links.bytes.to_numpy()
    texts = [f"{one} - {other}: {load:.3g} {unit}, {traffic(float(carried[link['rows']].sum()))}"
             for (one, other, link), load in zip(edges, loads, strict=True)]  # fmt: skip
    return {"type": "scatter", "mode": "markers", "x": middles[:, 0], "y": middles[:, 1], "text": texts,
            "hoverinfo": "text", "marker": {"size": 8, "opacity": 0}}  # fmt: skip


def _nodes(portrait: Portrait, nodes: list[str]) -> list[dict[str, Any]]:
    spots, kinds = portrait.graph.graph["places"], portrait.graph.nodes
    label = ACCURACIES[portrait.metric] if portrait.metric else "local trainings"
    values = portrait.values(portrait.seconds)
    here = np.array([spots[str(client)] for client in portrait.clients]).reshape(-1, 2)
    size = float(np.clip(110 / max(1, len(here)) ** 0.5, 5, WIDTHS["client"]))
    bar = {"title": {"text": label, "side": "right"}, "thickness": 10, "len": 0.6, "outlinewidth": 0}
    clients = {"type": "scatter", "mode": "markers", "x": here[:, 0], "y": here[:, 1],
               "text": [f"client {client}: {label} {value:.4g}"
                        for client, value in zip(portrait.clients, values, strict=True)],
               "hoverinfo": "text", "marker": {"size": size, "color": np.nan_to_num(values), "colorscale": "Viridis",
                                               "colorbar": bar, "line": {"width": 0.7, "color": "#333"}}}  # fmt: skip
    others = [node for node in nodes if kinds[node]["kind"] != "client"]
    named = [node if kinds[node]["kind"] in ("server", "edge") else "" for node in others]
    rest = {"type": "scatter", "mode": "markers+text", "x": [spots[node][0] for node in others],
            "y": [spots[node][1] for node in others], "text": named, "hovertext": others, "hoverinfo": "text",
            "textposition": "top center",
            "marker": {"color": ["#222" if kinds[node]["kind"] == "server" else "#999" for node in others],
                       "symbol": [SYMBOLS.get(kinds[node]["kind"], "circle") for node in others],
                       "size": [WIDTHS.get(kinds[node]["kind"], 5) for node in others]}}  # fmt: skip
    return [rest, clients]
