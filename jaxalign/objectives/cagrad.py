"""CAGrad: the direction near a weighted sum that improves the worst objective most. Liu, Liu, Jin, Stone & Liu 2021
(arXiv 2110.14048).

    G = argmax over ‖d − g_0‖ ≤ c ‖g_0‖ of min_i ⟨g_i, d⟩ = g_0 + c ‖g_0‖ G_p / ‖G_p‖        (see `conflict_averse`)

The paper weighs all objectives alike; with other weights this is RACO without its clip (Chen et al. 2026, arXiv
2602.02495), which gives up part of what the weights ask for to protect objectives that they hardly count.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxalign.objectives.conflict_averse import Direction, descent, direction, setting_problems


@dataclass(frozen=True)
class CAGrad:
    """Gradients of the oracle's annotators, in their order."""

    weights: tuple[float, ...]
    """w: of the objectives in g_0; they sum to 1"""
    c: float = 0.4
    """how far from g_0 it may go, in lengths of g_0, in [0, 1); 0 is the weighted sum"""
    step: float = 0.0
    """ℓ η at which the logged `descent` Γ is told, in [0, 1]; 0: of small steps, ⟨g_0, G⟩ / ‖g_0‖²"""

    @property
    def objectives(self) -> int:
        return len(self.weights)

    def problems(self) -> Iterable[str]:
        return setting_problems(self.weights, self.c, self.step)

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
