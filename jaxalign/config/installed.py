"""Versions of packages, as their metadata states them: nothing is imported."""

import contextlib
import importlib.metadata
from collections.abc import Iterable


def installed(names: Iterable[str]) -> dict[str, str]:
    """Version by name, of those that are installed; a package that runs from its sources alone has none."""
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
