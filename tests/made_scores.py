"""What losses of score models see, made of random outputs."""

import jax.numpy as jnp
import numpy as np

from jaxalign.contracts.scores import GroupScores, ScoreLoss
from jaxalign.types import Labels


def scores(outputs, prefer=1.0, margin=None, ratings=None) -> GroupScores:
    """Outputs [b r o] with labels, one of each a group or the same for all."""
    outputs = jnp.asarray(outputs, jnp.float32)
    groups = outputs.shape[0]
    one = jnp.broadcast_to(jnp.asarray(prefer, jnp.float32), (groups,))
    rated = None if ratings is None else jnp.asarray(ratings, jnp.float32)
    apart = None if margin is None else jnp.broadcast_to(jnp.asarray(margin, jnp.float32), (groups,))
    votes = one[:, None]
    return GroupScores(outputs, Labels(one, None, rated, votes, jnp.ones_like(votes), apart))


def shape_for(loss: ScoreLoss) -> tuple[int, int]:
    """Responses and outputs of the smallest groups that the loss reads."""
    return next((r, o) for r in (2, 1) for o in (1, 2, 3) if not list(loss.misfits(o, r)))


def drawn(loss: ScoreLoss, groups: int = 5, prefer: float = 0.8) -> GroupScores:
    rng, (r, o) = np.random.default_rng(0), shape_for(loss)
    ratings = rng.integers(1, 4, (groups, r)).astype(np.float32)
    return scores(rng.normal(0, 1, (groups, r, o)), prefer, rng.uniform(0, 1, groups), ratings)
