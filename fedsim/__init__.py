"""Federated and decentralised learning in exact virtual time, with real training.

>>> import fedsim
>>> result = fedsim.run("scenarios/quickstart.yaml", "until.versions=1")  # doctest: +SKIP
>>> result.metrics  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.conduct import run
    from fedsim.results import Run, load
    from fedsim.sweeping import sweep

__all__ = ["Run", "load", "run", "sweep"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that reading results or printing help does not wait for torch."""
    if name == "run":
        from fedsim.conduct import run

        return run
    if name == "sweep":
        from fedsim.sweeping import sweep

        return sweep
    if name in __all__:
        from fedsim import results

        return getattr(results, name)
    raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
