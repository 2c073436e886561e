"""How pictures look: as a paper prints them, at the size that it prints them; the one place where that is said."""

from __future__ import annotations

from typing import Any

from cycler import cycler

PAGE = 7.0
"""Inches across the text of a page of two columns: US letter with the margins of most conferences."""
TEXT = 8.0
"""Points of a label; captions of papers have 8 to 10."""
SMALL = 7.0
"""Points of ticks, legends and notes."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which colour-blind readers can tell apart (Color Universal Design, 2008)."""

LOOKS: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "figure.titlesize": TEXT + 1,
    "figure.dpi": 200,
    "savefig.dpi": 300,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.02,
    "pdf.fonttype": 42,  # letters stay letters: to be searched, and taken by publishers who refuse type 3
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "font.family": ["STIXGeneral", "DejaVu Sans"],  # a Times, as papers are set in; matplotlib brings both along
    "mathtext.fontset": "stix",
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.labelsize": TEXT,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "legend.framealpha": 0.75,  # what lies behind stays to be seen
    "legend.edgecolor": "none",
    "legend.fancybox": False,
    "legend.handlelength": 1.5,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.0,
    "lines.markersize": 3.0,
    "errorbar.capsize": 1.5,
    "hatch.linewidth": 0.5,
    "patch.linewidth": 0.5,
}
"""Matplotlib's settings by name, for `matplotlib.rc_context` or `matplotlib.rcParams.update`."""
