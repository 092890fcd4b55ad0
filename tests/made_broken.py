"""Values that break their contracts."""

import dataclasses
from typing import Any


def changed(value: Any, **changes: Any) -> Any:
    """As `dataclasses.replace`, past the check of annotations that only tests have."""
    twin = object.__new__(type(value))
    for field in dataclasses.fields(value):
        object.__setattr__(twin, field.name, changes.get(field.name, getattr(value, field.name)))
    return twin
