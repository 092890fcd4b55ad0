"""What a combiner of objectives says of its numbers, and makes of those that only a step that was taken shows."""

import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float

from jaxalign.contracts.arrays import described
from jaxalign.errors import BrokenContract
from jaxalign.types import Combiner


@runtime_checkable
class Explains(Protocol):
    """A combiner that says what its coefficients were made of."""

    def explain(self, gram: Float[Array, "o o"]) -> dict[str, Float[Array, "..."]]:
        """By name one number an objective, [o], or one of them all. Traced, and logged with each step."""
        ...


def explained(combiner: Combiner, gram: Float[Array, "o o"]) -> dict[str, Array]:
    """What a combiner says of the Gram matrix, as metrics: nothing, or its numbers, those of an objective as
    NAME/objective_INDEX. Raises BrokenContract for what is neither."""
    metrics: dict[str, Array] = {}
    for name, found in combiner.explain(gram).items() if isinstance(combiner, Explains) else ():
        if isinstance(found, jax.Array) and found.shape == ():
            metrics[name] = found
        elif isinstance(found, jax.Array) and found.shape == gram.shape[:1]:
            metrics |= by_objective(name, found)
        else:
            raise BrokenContract(
                f"combiner {type(combiner).__name__}: {name} must be a number, or one an objective, "
                f"[{gram.shape[0]}], got {described(found)}"
            )
    return metrics


def by_objective(name: str, column: Float[Array, " o"]) -> dict[str, Array]:
    """Metrics of one number an objective."""
    return {f"{name}/objective_{index}": column[index] for index in range(len(column))}


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
