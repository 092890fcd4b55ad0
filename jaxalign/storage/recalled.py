"""What the base makes of recorded pairs: the same in all runs of a launch that begin alike, and computed for the first.

Cells of a sweep that differ in how gradients are combined, or in their optimizer, would each score the same pairs with
the same parameters. Every run commits what it is given as if it had computed it. Nothing outlives the launch: one that
goes on with a sweep computes it once more.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jaxalign.storage.pinned import Pinned
from jaxalign.storage.rundir import Iteration

T = TypeVar("T")
Beginning = Callable[[Iteration, str, Callable[[], T]], T]
"""(iteration, phase, make) → what `make` would return."""

OF_THE_BASE = (("initial", "heldout_anchor"), ("initial", "heldout_pairs"), (0, "references"))
"""Phases that read recorded groups and the base alone."""

UNREAD = ("combiner", "optimizer")
"""Settings of an experiment that these phases do not read."""


class Recalled:
    """The phases of all runs that one launch has begun; on several processes each keeps them, for equal runs alike."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def of(self, resolved: Mapping[str, Any], pinned: Pinned) -> Beginning[Any]:
        """Those of a run with this resolved config and these inputs."""
        read = {name: value for name, value in resolved.items() if name not in UNREAD}
        inputs = [[each.field, each.name, each.fingerprint] for each in pinned.inputs]
        begun = json.dumps([read, inputs, str(pinned.date)], sort_keys=True)

        def recall(iteration: Iteration, phase: str, make: Callable[[], T]) -> T:
            if (iteration, phase) not in OF_THE_BASE:
                return make()
            key = f"{iteration}/{phase} {begun}"
            if key not in self._known:
                self._known[key] = make()
            known: T = self._known[key]
            return known

        return recall


def afresh(iteration: Iteration, phase: str, make: Callable[[], T]) -> T:
    """The beginning of a run that has nothing in common with others: what its policy answers is its own."""
    return make()
