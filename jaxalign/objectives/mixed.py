"""Mixed: the oracle has weighed its annotators already, and what it says together is the one objective."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float


@dataclass(frozen=True)
class Mixed:
    """The gradient of the loss on the oracle's own labels (`Labels.prefer`), followed as it is."""

    objectives: ClassVar[int | None] = None

    def __call__(self, gram: Float[Array, "o o"]) -> Float[Array, " o"]:
        return jnp.ones(gram.shape[0], jnp.float32)


EXAMPLE = Mixed()
