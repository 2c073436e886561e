"""Robust ways to combine updates, where some clients may send anything."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.defences.before import Bucketing, NearestNeighbourMixing
from fedsim.defences.centres import CentredClipping, GeometricMedian, NormBound, SelfCentredClipping
from fedsim.defences.coordinates import Median, TrimmedMean
from fedsim.defences.defence import Defence, Guard
from fedsim.defences.krum import Bulyan, Krum
from fedsim.defences.remembering import AsyncFilter, FoolsGold

RULES: dict[str, Callable[..., Defence]] = {
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "bulyan": Bulyan,
    "geometric_median": GeometricMedian,
    "centred_clipping": CentredClipping,
    "norm_bound": NormBound,
}
DEFENCES: dict[str, Callable[..., Guard]] = {
    **RULES,
    "nearest_neighbour_mixing": NearestNeighbourMixing,
    "bucketing": Bucketing,
    "self_centred_clipping": SelfCentredClipping,
    "foolsgold": FoolsGold,
    "async_filter": AsyncFilter,
}

__all__ = ["DEFENCES", "RULES", "Defence", "Guard"]
