"""The network of a run, drawn: nodes by accuracy, links by load; and animated, a frame a measurement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from textwrap import fill

import networkx as nx
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.animation import PillowWriter
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

from fedsim.errors import ScenarioError
from fedsim.fleet import DEVICES
from fedsim.layout import places, plan
from fedsim.network import NETWORKS, Routes
from fedsim.picture import SIZES as BYTES
from fedsim.picture import TIMES, unit_for
from fedsim.results import Run, load
from fedsim.traffic import Federation, carried, messages, routes
from fedsim.units import SECOND

FRAMES = 60
FRAMES_PER_SECOND = 4
MOST_LINKS = 3000
"""The busiest are drawn."""
NAMED = 60
"""Up to so many nodes carry their numbers."""
ACCURACIES = {"accuracy": "accuracy", "train_accuracy": "training accuracy"}
"""Columns of `clients.csv` that colour nodes, the first that there is."""
NODES = colormaps["viridis"].with_extremes(bad="#e0e0e0")
"""What is not known is light grey."""
LINKS = LinearSegmentedColormap.from_list("load", ["#d9d9d9", "#fdae61", "#d7301f", "#67000d"])
SIZES = {"client": 260.0, "server": 420.0, "edge": 170.0, "hub": 60.0, "router": 60.0}
"""Square points; of clients while they are few."""
SHAPES = {"server": "s", "edge": "D"}


def draw_network(path: Path | str, out: Path | None = None, animate: bool = False) -> list[Path]:
    """Draw a run folder's network into it or `out` (a comparison: into each arm's folder); which files were written.

    Raises:
        ScenarioError: if it is no run folder, has no `links.parquet`, or compares runs that cannot all go to `out`.
    """
    runs = load(path).arms
    if out is not None and len(runs) > 1:
        raise ScenarioError(f"{path} compares {len(runs)} runs: name the folder of one, or leave out --out")
    written = []
    for run in runs:
        target = out or run.path / ("network.gif" if animate else "network.png")
        picture = Picture(Portrait(run))
        (picture.animate if animate else picture.save)(target)
        written.append(target)
    return written


@dataclass(frozen=True)
class Portrait:
    """What a picture of a run's network has to show."""

    run: Run

    @cached_property
    def graph(self) -> nx.Graph:
        """What is drawn: see `plan`, less all but the busiest links."""
        graph, links = plan(self.run.links), self.run.links.bytes.to_numpy()
        by_load = sorted(graph.edges, key=lambda ends: -links[graph.edges[ends]["rows"]].max())
        graph.graph["places"], graph.graph["unseen"] = places(graph), by_load[MOST_LINKS:]
        graph.remove_edges_from(by_load[MOST_LINKS:])
        return graph

    @cached_property
    def federation(self) -> Federation:
        """Who is who in the trace."""
        return Federation.of(self.run.scenario)

    @cached_property
    def messages(self) -> pd.DataFrame:
        """All that has travelled."""
        return messages(self.run.trace, self.federation)

    @cached_property
    def seconds(self) -> float:
        """How long the run took."""
        return float(self.run.metrics.time_s.max())

    def clock(self, time: float) -> str:
        """A time of the run (seconds) in words."""
        name, scale = unit_for(TIMES, self.seconds)
        return f"{time / scale:.2f} {name}"

    @cached_property
    def clients(self) -> list[int]:
        """Those that are drawn."""
        return [int(node) for node in self.graph if node.isdigit()]

    @cached_property
    def metric(self) -> str | None:
        """What colours the clients; None: how often they have trained."""
        table = self.run.clients
        return next((name for name in ACCURACIES if table is not None and name in table), None)

    def values(self, time: float) -> np.ndarray:
        """What is known of each client drawn at a time (seconds); NaN: nothing."""
        if self.metric and self.run.clients is not None:
            seen = self.run.clients[self.run.clients.time_s <= time].groupby("client")[self.metric].last()
            return seen.reindex(self.clients).to_numpy(dtype=float)
        trace = self.run.trace
        counts = trace[(trace.kind == "train") & (trace.time <= time * SECOND)].client.value_counts()
        return counts.reindex(self.clients, fill_value=0).to_numpy(dtype=float)

    @cached_property
    def shares(self) -> bool:
        """Whether loads are shares of capacities; else bytes."""
        rows = [row for *_, link in self.graph.edges(data=True) for row in link["rows"]]
        return self.seconds > 0 and bool(np.isfinite(self.run.links.capacity.to_numpy()[rows]).all())

    def loads(self, since: float, until: float) -> np.ndarray:
        """Of each link drawn, its busier direction's load of what arrived between two times (seconds)."""
        sent = self.messages.loc[self.messages.time.between(since * SECOND, until * SECOND, inclusive="right")]
        return self._drawn(carried(self.run.links, self._routes, sent, self.federation), until - since)

    def whole_loads(self) -> np.ndarray:
        """The same of the whole run."""
        return self._drawn(self.run.links.bytes.to_numpy(), self.seconds)

    @cached_property
    def _routes(self) -> Routes:
        return routes(self.run.links)

    def _drawn(self, nbytes: np.ndarray, seconds: float) -> np.ndarray:
        capacity = self.run.links.capacity.to_numpy() * max(seconds, 1 / SECOND) / 100 if self.shares else 1.0
        loads = nbytes / capacity
        return np.array([loads[link["rows"]].max() for *_, link in self.graph.edges(data=True)])

    @property
    def note(self) -> str:
        """Where what pretends to be physical comes from, and what is left out."""
        parts = []
        if hidden := self.graph.graph["hidden"]:
            parts.append(f"{len(self.clients)} of {len(self.clients) + hidden} clients are drawn")
        if unseen := self.graph.graph["unseen"]:
            parts.append(f"the {MOST_LINKS} busiest of {MOST_LINKS + len(unseen)} links are drawn")
        scenario = self.run.scenario
        chosen = {"devices": (scenario["fleet"]["devices"], DEVICES), "network": (scenario["network"], NETWORKS)}
        for key, (choice, table) in chosen.items():
            [name] = [choice] if isinstance(choice, str) else choice
            parts.append(f"{key}: {getattr(table[name], 'source', 'synthetic') if name in table else name}")
        return "; ".join(parts)

    def frames(self) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
        """Time (seconds), values and loads since the frame before, at most `FRAMES` times."""
        times = self.run.metrics.time_s.unique()
        chosen = times[np.unique(np.linspace(0, len(times) - 1, min(FRAMES, len(times))).round().astype(int))]
        for since, until in zip([0.0, *chosen], chosen, strict=False):
            yield until, self.values(until), self.loads(since, until)


class Picture:
    """A portrait on paper, whose colours can change."""

    def __init__(self, portrait: Portrait) -> None:
        self.portrait = portrait
        self.figure = Figure(figsize=(6.4, 7.6), facecolor="white")
        self.axes = self.figure.add_axes((0.03, 0.21, 0.94, 0.71))
        self.axes.set_aspect("equal")
        self.axes.axis("off")
        self.axes.margins(0.08)
        spots = portrait.graph.graph["places"]
        self.lines = LineCollection([[spots[one], spots[other]] for one, other in portrait.graph.edges], cmap=LINKS,
                                    capstyle="round", zorder=1)  # fmt: skip
        self.axes.add_collection(self.lines)
        self._others(spots)
        here = np.array([spots[str(client)] for client in portrait.clients]).reshape(-1, 2)
        self.size = min(SIZES["client"], 7_000 / max(1, len(here)))
        self.nodes = self.axes.scatter(*here.T, s=self.size, c=np.zeros(len(here)), cmap=NODES,
                                       edgecolors="#333333", linewidths=0.8 if len(here) <= 300 else 0.2,
                                       zorder=3)  # fmt: skip
        style = {"ha": "center", "va": "center_baseline", "fontsize": min(9.0, 0.6 * self.size**0.5), "zorder": 4}
        named = zip(portrait.clients, here, strict=True) if len(here) <= NAMED else ()
        self.names = [self.axes.text(x, y, str(name), **style) for name, (x, y) in named]
        self.axes.autoscale_view()
        self.figure.text(0.97, 0.012, fill(portrait.note, 100), fontsize=6.5, color="grey", ha="right", va="bottom")

    def _others(self, spots: dict[str, np.ndarray]) -> None:
        """Whoever is not a client; servers have names."""
        for node in self.portrait.graph:
            kind: str = self.portrait.graph.nodes[node]["kind"]
            if kind == "client":
                continue
            spot, colour = tuple(spots[node]), "#222222" if kind == "server" else "#bdbdbd"
            self.axes.scatter(*spot, s=SIZES.get(kind, SIZES["router"]), c=colour, edgecolors="#555555",
                              marker=SHAPES.get(kind, "o"), zorder=2)  # fmt: skip
            if kind in SHAPES:
                box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
                self.axes.annotate(node, spot, (0, 12), textcoords="offset points", ha="center", fontsize=10, bbox=box,
                                   zorder=5)  # fmt: skip

    def scales(self, values: np.ndarray, loads: np.ndarray) -> None:
        """Fix what colours mean, by all that will be shown, and say it in two bars."""
        known = values[np.isfinite(values)]
        low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
        known_norm = Normalize(low if self.portrait.metric else 0.0, max(high, low + 1e-3))
        most = float(loads.max(initial=0.0))
        name, scale = ("% of capacity", 1.0) if self.portrait.shares else unit_for(BYTES, most)
        self.loads = Normalize(0.0, most if most > 0 else 1.0)
        self.nodes.set_norm(known_norm)
        self.lines.set_norm(self.loads)
        label = ACCURACIES[self.portrait.metric] if self.portrait.metric else "local trainings"
        self._bar(0.06, NODES, known_norm, label, 1.0)
        self._bar(0.55, LINKS, self.loads, f"link load ({name})", scale)

    def _bar(self, left: float, colours: Colormap, norm: Normalize, label: str, scale: float) -> None:
        shown = Normalize((norm.vmin or 0.0) / scale, (norm.vmax or 0.0) / scale)
        where = self.figure.add_axes((left, 0.15, 0.39, 0.018))
        bar = self.figure.colorbar(ScalarMappable(shown, colours), cax=where, orientation="horizontal")
        bar.set_label(label, fontsize=11)
        bar.ax.locator_params(nbins=4)
        bar.ax.tick_params(labelsize=10)
        bar.outline.set_visible(False)  # type: ignore[operator]  # matplotlib's stubs take it for a function

    def show(self, title: str, values: np.ndarray, loads: np.ndarray) -> None:
        """Colour nodes by their values and links by their loads."""
        self.figure.suptitle(title, fontsize=13, y=0.975)
        self.nodes.set_array(np.ma.masked_invalid(values))
        share = np.asarray(self.loads(loads), dtype=float)
        crowd = min(1.0, (25 / max(1, len(loads))) ** 0.5)
        self.lines.set_array(loads)
        widths = np.where(loads > 0, 1.2 + 4.8 * share, 0.7) * max(crowd, 0.25)
        self.lines.set_linewidth(widths.tolist())
        colours = self.nodes.to_rgba(np.ma.masked_invalid(values))
        for name, colour in zip(self.names, colours, strict=False):
            name.set_color("white" if colour[:3] @ (0.299, 0.587, 0.114) < 0.55 else "black")

    def save(self, target: Path) -> None:
        """The whole run, as a PNG."""
        portrait = self.portrait
        values, loads = portrait.values(portrait.seconds), portrait.whole_loads()
        self.scales(values, loads)
        self.show(f"{portrait.run.label}, {portrait.clock(portrait.seconds)}", values, loads)
        temporary = target.with_name(f".{target.name}.tmp")
        self.figure.savefig(temporary, dpi=150, format="png")
        temporary.rename(target)

    def animate(self, target: Path) -> None:
        """A frame a measurement, as a GIF."""
        frames = list(self.portrait.frames())
        self.scales(np.concatenate([values for _, values, _ in frames]), np.concatenate([load for *_, load in frames]))
        temporary = target.with_name(f".{target.stem}.tmp.gif")
        writer = PillowWriter(fps=FRAMES_PER_SECOND)
        with writer.saving(self.figure, str(temporary), dpi=100):
            for time, values, loads in frames:
                self.show(f"{self.portrait.run.label}, after {self.portrait.clock(time)}", values, loads)
                writer.grab_frame()
        temporary.rename(target)
