"""Federated and decentralised learning in exact virtual time, with real training.

>>> import fedsim
>>> result = fedsim.run("scenarios/quickstart.yaml", "until.versions=1")  # doctest: +SKIP
>>> result.metrics  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.conduct import resume, run
    from fedsim.results import Run, load
    from fedsim.sweeping import sweep

__all__ = ["Run", "load", "resume", "run", "sweep"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that reading results or printing help does not wait for torch."""
    if name in ("run", "resume"):
        from fedsim import conduct

        return getattr(conduct, name)
    if name == "sweep":
        from fedsim.sweeping import sweep

        return sweep
    if name in __all__:
        from fedsim import results

        return getattr(results, name)
    raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
