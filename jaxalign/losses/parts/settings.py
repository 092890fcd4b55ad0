"""Sentences on settings that losses share."""

from collections.abc import Iterator


def positive(**values: float) -> Iterator[str]:
    """One for each of the named values that is not positive."""
    for name, value in values.items():
        if not value > 0:
            yield f"{name} must be positive, got {value}"


def within(low: float, high: float, **values: float) -> Iterator[str]:
    """One for each of the named values that does not lie in [low, high)."""
    for name, value in values.items():
        if not low <= value < high:
            yield f"{name} must lie in [{low:g}, {high:g}), got {value}"
