"""Jitted functions that a process makes once for equal settings.

JAX traces, lowers and looks up anew what a new Python function computes, also where another one computed the same. Runs
of several seeds, cells of a sweep and sessions that follow each other in one process differ in what their programs are
given, and seldom in the programs: a maker that is marked `once` gives again what it made for equal arguments.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

T = TypeVar("T")

KEPT = 8
"""Latest results that each maker keeps: those of a run are few, and executables take memory."""

_FORGET: list[Callable[[], None]] = []


class _Frozen(dict[str, Any]):
    """A dict that nobody changes, as an argument that can be looked up."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def once(make: Callable[..., T]) -> Callable[..., T]:
    """`make`, called once for equal positional arguments; what cannot be hashed (a component that is no frozen
    dataclass) is made anew each time. What it returns must depend on its arguments alone and hold no arrays."""
    kept = lru_cache(maxsize=KEPT)(make)
    _FORGET.append(kept.cache_clear)

    @wraps(make)
    def made(*arguments: Any) -> T:
        known = tuple(_Frozen(each) if isinstance(each, dict) else each for each in arguments)
        try:
            hash(known)
        except TypeError:
            return make(*arguments)
        return kept(*known)

    return made


def forget() -> None:
    """Everything that was made so far: for whoever changes what is read while programs are traced."""
    for clear in _FORGET:
        clear()
