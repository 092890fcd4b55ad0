"""Generations of TPUs, by the names that devices go by, and the kernels' tables of blocks by generation."""

from collections.abc import Mapping
from typing import Any

_MARKS = {"v5e": ("v5 lite", "v5e"), "v6e": ("v6 lite", "v6e"), "v5p": ("v5",)}
"""In this order: a v5e's name has the mark of a v5p too."""


def generation(kind: str) -> str | None:
    """That of a kind of device as JAX calls it ("TPU v5 lite"); None where it is none that the kernels know."""
    found = (name for name, marks in _MARKS.items() if any(mark in kind.lower() for mark in marks))
    return next(found, None)


def entry(table: Mapping[str, Any], generation: str) -> Any:
    """A generation's entry of a table. Raises ValueError for one that is not there."""
    if generation not in table:
        raise ValueError(f"no block sizes for TPU {generation!r}: tuning.json has {sorted(table)}")
    return table[generation]
