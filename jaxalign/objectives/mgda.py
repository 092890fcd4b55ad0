"""MGDA: the shortest mixture of the gradients, which descends every objective alike. Désidéri 2012 (Comptes Rendus
Mathématique 350); of neural networks Sener & Koltun 2018 (arXiv 1810.04650).

    G = Σ p_i g_i,    p ∈ argmin over the simplex of ‖Σ p_i g_i‖

⟨g_i, G⟩ ≥ ‖G‖² for every i, and G = 0 only where no direction improves all: ‖G‖ is the measure of Pareto stationarity
that RACO's Theorem 3.1 bounds. It knows no weights, and follows small gradients.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.objectives.conflict_averse import ROUNDING, normalised
from jaxalign.objectives.simplex import minimiser


@dataclass(frozen=True)
class MGDA:
    """Gradients of the oracle's annotators, in their order."""

    objectives: int = 2
    """how many there are, >= 1"""

    def problems(self) -> Iterable[str]:
        if self.objectives < 1:
            yield f"objectives must be at least 1, got {self.objectives}"

    def __call__(self, gram: Float[Array, "o o"]) -> Float[Array, " o"]:
        with jax.enable_x64(True):
            exact = normalised(gram)
            zeros = jnp.zeros(self.objectives, jnp.float64)
            found = minimiser(exact, zeros, jnp.float64(1.0), ROUNDING * self.objectives)
            return found.astype(jnp.float32)


EXAMPLE = MGDA(objectives=3)
