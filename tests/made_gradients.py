"""Sets of gradients as combiners may meet them: many at once, conflicting, opposed, dependent, and badly scaled."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.types import Combiner

KINDS = ("free", "scaled apart", "in a plane", "nearly parallel", "cancelling", "some zero", "twice the same")


def gradients(objectives: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """[n o 7] in fp64, of lengths from 1e-6 to 1e6, and which of `KINDS` each set is of."""
    rng = np.random.default_rng((seed, objectives))
    free = rng.normal(size=(count, objectives, 7))
    kind = np.arange(count) % len(KINDS)
    each = (count, objectives, 1)
    opposed = free.copy()
    opposed[:, 0] = -free[:, 1:].sum(1) * rng.uniform(0.1, 1, (count, 1))
    twice = free.copy()
    twice[:, -1] = twice[:, 0]
    made = (
        free,
        free * 10 ** rng.uniform(-6, 6, each),
        rng.normal(size=(count, objectives, 2)) @ rng.normal(size=(count, 2, 7)),
        free[:, :1] + 10 ** rng.uniform(-7, 0, (count, 1, 1)) * free,
        opposed,
        free * (rng.uniform(size=each) < 0.6),
        twice,
    )
    found = np.choose(kind[:, None, None], made)
    return found * 10 ** rng.uniform(-6, 6, (count, 1, 1)), kind


def grams(found: np.ndarray) -> np.ndarray:
    return found @ found.swapaxes(-1, -2)


def of_all(combine: Callable, found: np.ndarray) -> np.ndarray:
    """The directions [n 7] that coefficients of fp32 Gram matrices make of fp64 gradients."""
    import jax
    import jax.numpy as jnp

    shares = np.asarray(jax.jit(jax.vmap(combine))(jnp.asarray(grams(found), jnp.float32)), np.float64)
    return np.einsum("no,nok->nk", shares, found)


def gram(combiner: Combiner, scale: float = 1.0, seed: int = 0) -> jax.Array:
    """Inner products of random gradients, as many as the combiner has objectives."""
    rows = scale * np.random.default_rng(seed).normal(size=(combiner.objectives or 1, 7))
    return jnp.asarray(rows @ rows.T, jnp.float32)
