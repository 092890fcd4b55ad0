"""CAGrad: the direction near a weighted sum that improves the worst objective most. Liu, Liu, Jin, Stone & Liu 2021
(arXiv 2110.14048).

    G = argmax over ‖d − g_0‖ ≤ c ‖g_0‖ of min_i ⟨g_i, d⟩ = g_0 + c ‖g_0‖ G_p / ‖G_p‖        (see `conflict_averse`)

The paper weighs all objectives alike; with other weights this is RACO without its clip (Chen et al. 2026, arXiv
2602.02495), which gives up part of what the weights ask for to protect objectives that they hardly count.
"""

from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxalign.objectives.conflict_averse import ConflictAverse, Direction, descent, direction


@dataclass(frozen=True)
class CAGrad(ConflictAverse):
    """Gradients of the oracle's annotators, in their order."""

    def __call__(self, gram: Float[Array, "o o"]) -> Float[Array, " o"]:
        return self.direction(gram).coefficients

    def direction(self, gram: Float[Array, "o o"]) -> Direction:
        """With the mixture as it is."""
        return direction(gram, self.weights, self.c, lambda p, w: p)

    def explain(self, gram: Float[Array, "o o"]) -> dict[str, Float[Array, "..."]]:
        """p, ρ and Γ."""
        found = self.direction(gram)
        told = descent(found.alignment, self.c, self.step)
        return {"mixture": found.mixture, "alignment": found.alignment, "descent": told}


EXAMPLE = CAGrad((0.5, 0.3, 0.2), c=0.5)
