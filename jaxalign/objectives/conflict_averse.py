"""Directions near a weighted sum of gradients that hurt no objective more than they must: what CAGrad and RACO share.

    g_0 = Σ w_i g_i,    p ∈ argmin over the simplex of ⟨G_p, g_0⟩ + c ‖g_0‖ ‖G_p‖,    G_p = Σ p_i g_i
    G = g_0 + c ‖g_0‖ G_q / ‖G_q‖ = Σ a_i g_i,    a_i = w_i + c ‖g_0‖ q_i / ‖G_q‖

q is p (Liu et al. 2021, CAGrad, arXiv 2110.14048) or p clipped (Chen et al. 2026, RACO, arXiv 2602.02495, Algorithm 1).
All of it follows from the Gram matrix: no direction is ever made but the last. Whatever q, G is within c ‖g_0‖ of g_0,
so that with c < 1 it descends the weighted loss: where that has an ℓ-Lipschitz gradient, a step of size η lowers it by
at least η ‖g_0‖² Γ(ρ), ρ = cos(g_0, G_q), and

    Γ(ρ) = 1 + c ρ − (ℓ η / 2) (1 + c² + 2 c ρ) ≥ (1 − c²) / 2    for η ≤ 1/ℓ      (RACO, Theorem 3.1, full gradients)
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.objectives.simplex import minimiser

ROUNDING = 2.0**-22
"""Of two norms: an inner product of gradients is known no better, in fp32."""

Clip = Callable[[Float[Array, " o"], Float[Array, " o"]], Float[Array, " o"]]
"""(p, w) → q"""


class Direction(NamedTuple):
    """Coefficients a, the mixture p, what is used of it, q, and ρ; fp32."""

    coefficients: Float[Array, " o"]
    mixture: Float[Array, " o"]
    used: Float[Array, " o"]
    alignment: Float[Array, ""]


def direction(gram: Float[Array, "o o"], weights: tuple[float, ...], c: float, clip: Clip) -> Direction:
    """The module's formulas; where the gradients of q cancel there is no direction to add, and G tends to g_0."""
    with jax.enable_x64(True):
        h = normalised(gram)
        w = jnp.asarray(weights, jnp.float64)
        linear = (h * w[None]).sum(1)
        wanted = jnp.sqrt(jnp.maximum((w * linear).sum(), 0.0))
        noise = ROUNDING * len(weights)
        p = minimiser(h, linear, c * wanted, noise)
        q = clip(p, w)
        # Below the rounding of the Gram matrix a length may be anything, and none is divided by less.
        least = jnp.sqrt(noise) * (q * jnp.sqrt(jnp.diagonal(h))).sum()
        size = jnp.maximum(jnp.sqrt(jnp.maximum((q[:, None] * h * q[None]).sum(), 0.0)), least)
        a = w + c * wanted * q / jnp.where(size > 0, size, 1.0)
        apart = wanted * size
        alignment = jnp.clip((linear * q).sum() / jnp.where(apart > 0, apart, 1.0), -1.0, 1.0)
        return Direction(*(each.astype(jnp.float32) for each in (a, p, q, alignment)))


def normalised(gram: Float[Array, "o o"]) -> Float[Array, "o o"]:
    """The matrix in fp64, the largest squared norm 1: nothing that is made of it depends on the gradients' unit."""
    exact = gram.astype(jnp.float64)
    largest = jnp.diagonal(exact).max()
    return exact / jnp.where(largest > 0, largest, 1.0)


def descent(alignment: Float[Array, ""], c: float, step: float) -> Float[Array, ""]:
    """Γ(ρ), where `step` is ℓ η: what a step lowers the weighted loss by at least, a unit of η ‖g_0‖²."""
    return 1 + c * alignment - step / 2 * (1 + c**2 + 2 * c * alignment)


@dataclass(frozen=True)
class ConflictAverse:
    """What such combiners are set by; how they clip is theirs to say."""

    weights: tuple[float, ...]
    """w: of the objectives in g_0, and what a clip clips at; they sum to 1"""
    c: float = 0.4
    """how far from g_0 it may go, in lengths of g_0, in [0, 1); 0 is the weighted sum"""
    step: float = 0.0
    """ℓ η at which the logged `descent` Γ is told, in [0, 1]; 0: of small steps, ⟨g_0, G⟩ / ‖g_0‖²"""

    @property
    def objectives(self) -> int:
        """As many as there are weights."""
        return len(self.weights)

    def problems(self) -> Iterable[str]:
        if not (self.weights and min(self.weights) >= 0 and abs(sum(self.weights) - 1) < 1e-6):
            yield f"weights must be at least 0 and sum to 1, got {self.weights}"
        if not 0 <= self.c < 1:
            yield f"c must lie in [0, 1), got {self.c}"
        if not 0 <= self.step <= 1:
            yield f"step must lie in [0, 1], where Γ says something, got {self.step}"
