"""What can go wrong, in the words of the user's world."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from traceback import extract_tb

HERE = str(Path(__file__).parent)


class ScenarioError(ValueError):
    """The scenario asks for something that does not exist, does not fit or cannot be had (exit code 2)."""


class DataMissing(ScenarioError):
    """A file that the scenario needs is in none of the data folders."""


class ExtraMissing(ScenarioError):
    """An optional dependency is not installed (exit code 4)."""


class RunFailed(RuntimeError):
    """The run could not go on (exit code 1)."""


class TrainingFailed(RunFailed):
    """A client's local training broke; names the client, the virtual time that needed it, and the cause."""


class Stalled(RunFailed):
    """Virtual time cannot, or only for ever and in vain, go on."""


class Interrupted(Exception):
    """Somebody has stopped a run, which may be taken up again (exit code 3)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that does not exist.

    >>> nearest("fedbuf", ["fedavg", "fedbuff"])
    'did you mean fedbuff?'
    >>> nearest("xyz", ["fedavg", "fedbuff"])
    'there are: fedavg, fedbuff'
    """
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(known) or 'none'}"


def told(error: Exception) -> str:
    """What went wrong in somebody's own code, in a line; with its type and place, unless it was meant to be read."""
    says = (str(error).splitlines() or [""])[0]
    if isinstance(error, ValueError):
        return says
    lines = [line for line in extract_tb(error.__traceback__)
             if "site-packages" not in line.filename and not line.filename.startswith(HERE)]  # fmt: skip
    place = f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else ""
    return f"{type(error).__name__}: {says}{place}"
