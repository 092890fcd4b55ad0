"""Sentences on arrays that are not what they should be."""

from collections.abc import Iterator
from typing import Any

import numpy as np

TOLERANCE = 1e-5
"""Slack of probabilities, their complements and shares: fp32 rounds at 6e-8, and a mean of many votes adds that up."""


def described(value: Any) -> str:
    """Dtype and shape of an array, "float32 [8, 2]"; the class of anything else."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"


def array_problems(name: str, value: Any, shape: tuple[int, ...], kind: Any = np.floating) -> Iterator[str]:
    """What is wrong with a host array that should have that shape, a dtype of that kind (NumPy's), finite numbers."""
    if not isinstance(value, np.ndarray):
        yield f"{name} must be a NumPy array, got {described(value)}"
    elif not np.issubdtype(value.dtype, kind) or value.shape != shape:
        yield f"{name} must be {kind.__name__} {list(shape)}, got {described(value)}"
    elif not np.isfinite(value).all():
        place = tuple(np.argwhere(~np.isfinite(value))[0].tolist())
        yield f"{name}{list(place)} is {value[place]}"


def range_problems(name: str, value: np.ndarray, low: int, high: int | float) -> Iterator[str]:
    """The first number of an array that is not within the bounds."""
    wrong = np.argwhere((value < low) | (value > high))
    if len(wrong):
        place = tuple(wrong[0].tolist())
        yield f"{name}{list(place)} is {value[place]}, not within [{low}, {high}]"
