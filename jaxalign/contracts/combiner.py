"""What a combiner of objectives makes of numbers, which only a step that has been taken shows."""

import math
from collections.abc import Mapping

from jaxalign.errors import BrokenContract
from jaxalign.types import Combiner


def check_coefficients(combiner: Combiner, step: int, metrics: Mapping[str, float]) -> None:
    """Raises BrokenContract for coefficients that are not finite where the gradients they are made of are."""
    if not all(math.isfinite(value) for name, value in metrics.items() if name.startswith("grad_norm/")):
        return
    for name, value in metrics.items():
        if name.startswith("coefficients/") and not math.isfinite(value):
            raise BrokenContract(
                f"combiner {type(combiner).__name__}: {name} is {value} at step {step}, of finite gradients. The last "
                "checkpoint is intact"
            )
