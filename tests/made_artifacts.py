"""A small artifact and a run's config, for tests of what lies in run directories."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

CONFIG = {"seed": 0, "loss": {"eta": 0.1}, "hosts": ["a", "b"]}


@dataclasses.dataclass(frozen=True)
class Small:
    x: Float[np.ndarray, " n"]
    ids: Int[np.ndarray, "n n"]
    text: str


def small(n: int = 3) -> Small:
    return Small(np.arange(n, dtype=np.float32), np.eye(n, dtype=np.int32), "word " * n)


def same(one: object, other: object) -> bool:
    """Equality to the bit: of arrays dtype, shape and bytes, of floats NaN and the sign of zero."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return repr(one) == repr(other)
