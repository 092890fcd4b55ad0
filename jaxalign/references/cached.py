"""Cached references: their log-probs are computed once an iteration and stored with the groups.

Training then holds policy and optimizer only; each reference costs one forward pass an iteration, before the fit.
"""

from collections.abc import Iterable
from dataclasses import dataclass


def all_stored(self: object, needs: Iterable[str]) -> tuple[str, ...]:
    """Roles whose log-probs are stored: all that the loss needs."""
    return tuple(needs)


def none_live(self: object, needs: Iterable[str]) -> tuple[str, ...]:
    """Roles whose parameters enter the step: none."""
    del needs
    return ()


@dataclass(frozen=True)
class Cached:
    """Reference log-prob sums are columns of the groups."""

    stored, live = all_stored, none_live


EXAMPLE = Cached()
