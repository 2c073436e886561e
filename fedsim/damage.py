"""Files that were written whole may not be whole any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from safetensors import SafetensorError

from fedsim.errors import ScenarioError


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """Whatever a reader says of a damaged file becomes one sentence: ScenarioError."""
    try:
        yield path
    except ScenarioError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError, yaml.YAMLError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ScenarioError(f"{path} cannot be read: {said}") from None
