"""Values and components that break their contracts."""

import dataclasses
from typing import Any

import numpy as np


def changed(value: Any, **changes: Any) -> Any:
    """As `dataclasses.replace`, past the check of annotations that only tests have."""
    twin = object.__new__(type(value))
    for field in dataclasses.fields(value):
        object.__setattr__(twin, field.name, changes.get(field.name, getattr(value, field.name)))
    return twin


def put(array: np.ndarray, place: tuple[int, ...], value: Any) -> np.ndarray:
    """The array with one number changed."""
    array = array.copy()
    array[place] = value
    return array


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Builds whatever it was given."""

    built: Any

    def build(self, steps):
        return self.built
