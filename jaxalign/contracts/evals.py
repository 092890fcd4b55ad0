"""The metrics of several evals in one table, if they are finite floats and no two evals use a name."""

import math
from collections.abc import Iterable

from jaxalign.contracts.arrays import described
from jaxalign.errors import BrokenContract
from jaxalign.types import Metrics


def merged(found: Iterable[tuple[object, object]]) -> Metrics:
    """All metrics of (eval, what it measured). Raises BrokenContract, naming eval and metric."""
    metrics: Metrics = {}
    owners: dict[str, str] = {}
    for measurement, measured in found:
        who = type(measurement).__name__
        if not isinstance(measured, dict):
            raise BrokenContract(f"eval {who}: must return a dict of floats by name, got {described(measured)}")
        for name, value in measured.items():
            if not isinstance(name, str) or not isinstance(value, float) or not math.isfinite(value):
                raise BrokenContract(f"eval {who}: {name} must be a finite float, got {value!r}")
            if name in owners:
                raise BrokenContract(f"evals {owners[name]} and {who} both measure {name}: each needs names of its own")
            metrics[name], owners[name] = value, who
    return metrics
