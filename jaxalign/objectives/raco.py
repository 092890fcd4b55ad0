"""RACO: conflict-averse gradients whose mixture never counts an objective more than its weight. Chen, Li, Chen & Lin
2026 (arXiv 2602.02495), Algorithm 1 (CAGrad-Clip).

    q_i = min(p_i, w_i),    G = g_0 + c ‖g_0‖ G_q / ‖G_q‖        (see `conflict_averse`; q is not renormalised)

Of two objectives the clip never turns G away from g_0 (Theorem 3.2): Γ(ρ_q) − Γ(ρ_p) = c (1 − ℓ η) (ρ_q − ρ_p) ≥ 0. It
buys fidelity to the weights with part of CAGrad's protection of the objective that counts less. The paper's code
appears to solve for every microbatch of every device (it was read, not run); here it is once a step, of the gradients
of the global batch.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.objectives.conflict_averse import ConflictAverse, Direction, descent, direction


@dataclass(frozen=True)
class RACO(ConflictAverse):
    """Gradients of the oracle's annotators, in their order."""

    def __call__(self, gram: Float[Array, "o o"]) -> Float[Array, " o"]:
        return self.direction(gram).coefficients

    def direction(self, gram: Float[Array, "o o"]) -> Direction:
        """With the mixture clipped."""
        return direction(gram, self.weights, self.c, jnp.minimum)

    def explain(self, gram: Float[Array, "o o"]) -> dict[str, Float[Array, "..."]]:
        """p, q, ρ and Γ."""
        found = self.direction(gram)
        told = descent(found.alignment, self.c, self.step)
        return {"mixture": found.mixture, "clipped": found.used, "alignment": found.alignment, "descent": told}


EXAMPLE = RACO((0.2, 0.8), c=0.5)
