"""The mixture of gradients that is worst off against a direction: an exact minimiser over the simplex.

    p ∈ argmin over the simplex of  Φ(p) = bᵀp + s √(pᵀ H p),        s ≥ 0, H the Gram matrix of o gradients

With b = H w and s = c √(wᵀ H w) it is the dual of CAGrad (Liu et al. 2021, arXiv 2110.14048), with b = 0 and s = 1 the
shortest vector of MGDA. Φ is convex and homogeneous, so a face's best point has a closed form: on it, with x = H⁻¹1 and
y = H⁻¹b,

    A = 1ᵀx,  B = 1ᵀy,  C = bᵀy,  D = A s² − (A C − B²)
    p = (ν x − y) / √D,  ν = (B + √D) / A = Φ(p)        where D > 0; else Φ falls along B x / A − y without end

For two gradients that is one line. For more, faces are gone through by an active set: towards the best point of the
face, an objective fewer where that leaves the simplex, one more where Φ falls towards it, at most as often as there are
faces and in practice some o times. Everything is in fp64, which a program may use whatever the precision of the rest:
pᵀHp cancels where gradients are opposed, and a root makes 3e-4 of what fp32 leaves of it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

CLOSE = 1e-10
"""Of an objective's own terms: less than that Φ need not fall towards it."""
TINY = 1e-30
"""Of the largest squared norm: what a gradient of zeros is taken to have, so that it can be divided by."""
ROUNDS = 40
"""Faces an objective that are gone through at most."""

State = tuple[Float[Array, " o"], Bool[Array, " o"], Bool[Array, " o"], Array, Array]
"""The point, its face, objectives that rounding kept out of it, faces so far, whether it is over."""


def minimiser(
    gram: Float[Array, "o o"], linear: Float[Array, " o"], scale: Float[Array, ""], ridge: float
) -> Float[Array, " o"]:
    """p, of fp64 and in fp64: call it under `jax.enable_x64(True)`.

    `ridge` is the share of their squared norms by which gradients are known no better, as the rounding of `gram`: what
    it leaves open is decided by the evenest p. Two gradients do without. Φ(p) is within √ridge · s · Σ p_i ‖g_i‖ of the
    least.
    """
    if len(linear) == 1:
        return jnp.ones_like(linear)
    if len(linear) == 2:
        return _of_two(gram, linear, scale)
    squares = jnp.diagonal(gram)
    more = ridge * squares + TINY * squares.max() + TINY
    return _of_many(gram + jnp.where(np.eye(len(linear), dtype=bool), more[None], 0.0), linear, scale)


def _of_two(gram: Float[Array, "2 2"], linear: Float[Array, " 2"], scale: Float[Array, ""]) -> Float[Array, " 2"]:
    """Φ over the line through both gradients is a slope and a hyperbola: its lowest point, or the end nearest to it."""
    one, both, other = gram[0, 0], gram[0, 1], gram[1, 1]
    apart, slope = one + other - 2 * both, linear[0] - linear[1]
    curved = scale**2 * apart - slope**2
    bent = (apart > 0) & (curved > 0)
    off = jnp.sqrt(jnp.maximum(one * other - both**2, 0) / jnp.where(bent, curved, 1.0))
    lowest = (other - both - slope * off) / jnp.where(bent, apart, 1.0)
    first = jnp.clip(jnp.where(bent, lowest, (1 - jnp.sign(slope)) / 2), 0, 1)
    return jnp.stack([first, 1 - first])


def _of_many(gram: Float[Array, "o o"], linear: Float[Array, " o"], scale: Float[Array, ""]) -> Float[Array, " o"]:
    """By an active set, of a positive definite matrix."""
    norms = jnp.sqrt(jnp.diagonal(gram))
    terms = jnp.abs(linear) + scale * norms

    def step(state: State) -> State:
        p, face, barred, rounds, _ = state
        heading, bounded = _heading(gram, linear, scale, p, face)
        falling = face & (heading < 0)
        room = jnp.where(falling, p / jnp.where(falling, -heading, 1.0), jnp.inf)
        free = room.min()
        blocked = jnp.where(bounded, free < 1, jnp.isfinite(free))
        length = jnp.where(blocked, free, jnp.where(bounded, 1.0, 0.0))
        moved = jnp.maximum(p + length * heading, 0.0)
        leaves = blocked & _least(room)
        moved = jnp.where(leaves, 0.0, moved)
        moved = moved / moved.sum()
        # One that has just come and would leave at once is rounding: coming again it would do so for ever.
        barred = barred | (leaves & (length <= 0))
        lack = _lack(gram, linear, scale, moved) + CLOSE * (terms + 1e-3 * (moved * terms).sum())
        lack = jnp.where(face | barred, jnp.inf, lack / norms)
        comes = ~blocked & (lack.min() < 0) & _least(lack)
        return moved, (face & ~leaves) | comes, barred, rounds + 1, ~blocked & ~comes.any()

    best = _least(linear + scale * norms)
    begin = (best.astype(linear.dtype), best, jnp.zeros_like(best), jnp.int32(0), jnp.bool_(False))
    most = ROUNDS * len(linear)
    return jax.lax.while_loop(lambda state: ~state[4] & (state[3] < most), step, begin)[0]


def _heading(
    gram: Float[Array, "o o"],
    linear: Float[Array, " o"],
    scale: Float[Array, ""],
    p: Float[Array, " o"],
    face: Bool[Array, " o"],
) -> tuple[Float[Array, " o"], Bool[Array, ""]]:
    """From p to the best point of its face's plane; or where there is none, which way Φ falls without end."""
    on = face.astype(linear.dtype)
    matrix = jnp.where(face[:, None] & face[None] | np.eye(len(p), dtype=bool), gram, 0.0)
    found = solved(matrix, jnp.stack([on, on * linear], axis=1))
    x, y = found[:, 0], found[:, 1]
    a, b, c = x.sum(), y.sum(), (linear * y).sum()
    under = a * scale**2 - (a * c - b**2)
    alone = on.sum() == 1
    root = jnp.sqrt(jnp.where(under > 0, under, 1.0))
    best = jnp.where(alone, on, ((b + root) / a * x - y) / root)
    bounded = alone | (under > 0)
    return jnp.where(bounded, best - p, b / a * x - y), bounded


def _lack(
    gram: Float[Array, "o o"], linear: Float[Array, " o"], scale: Float[Array, ""], p: Float[Array, " o"]
) -> Float[Array, " o"]:
    """By how much Φ rises from p towards each objective; below 0 it falls."""
    pulls = (gram * p[None]).sum(1)
    size = jnp.sqrt((p * pulls).sum())
    return linear + scale * pulls / size - ((linear * p).sum() + scale * size)


def solved(matrix: Float[Array, "o o"], right: Float[Array, "o k"]) -> Float[Array, "o k"]:
    """matrix⁻¹ right, of a positive definite matrix: elimination without pivots, since TPUs factor nothing in fp64."""
    table, rows = jnp.concatenate([matrix, right], axis=1), np.arange(len(matrix))[:, None]
    for row in range(len(matrix)):
        pivot = jnp.maximum(table[row, row], 1e-16 * matrix[row, row])
        scaled = table[row] / pivot
        table = jnp.where(rows == row, scaled[None], table - table[:, row : row + 1] * scaled[None])
    return table[:, len(matrix) :]


def _least(values: Float[Array, " o"]) -> Bool[Array, " o"]:
    """True at the first of the least. Not by `argmin`, which is lowered when fp64 is over and makes fp32 of it."""
    places = np.arange(len(values), dtype=np.float64)
    return places == jnp.where(values == values.min(), places, np.inf).min()
