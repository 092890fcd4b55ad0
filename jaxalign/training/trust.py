"""A trust region around the policy that sampled: how far the policy is from it, and a step that is not taken.

    KL(last ‖ π) = E_{y ~ last} Σ_t (r_t − 1 − log r_t),        r_t = π(y_t | x, y_<t) / last(y_t | x, y_<t)

in nats an answer. TRPO bounds this KL, of the policy that sampled to the new one (Schulman et al. 2015, arXiv
1502.05477), and codes of PPO stop a fit by it: answers of `last` are at hand, so none is drawn and none weighted. The
KL the other way, COMAL's, agrees with it to second order. Each term is at least 0, and over answers of `last` each is
an unbiased estimate of the KL at its token (Schulman 2020, "Approximating KL divergence", k3); log-probs of `last` are
those that it logged while it sampled. The mean is over the answers of a step's groups, by weight: a pairing that ranks
takes its best and worst answers for all. A step tells where the steps before it have led, so the last of them may have
led outside, and stays.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxalign.types import GroupLogps

KL = "kl/last_nats"
"""The estimate's name among a step's metrics."""


def kl_of_last(seen: GroupLogps) -> Float[Array, " b"]:
    """The estimate from each group's answers, nats an answer. No gradient flows through it."""
    assert seen.last_tokens is not None
    ratio = jax.lax.stop_gradient(seen.tokens) - seen.last_tokens
    return jnp.where(seen.mask, jnp.expm1(ratio) - ratio, 0.0).sum(-1, dtype=jnp.float32).mean(-1)


def within(limit: float | None, metrics: dict[str, Array], before: Any, after: Any) -> tuple[Any, dict[str, Array]]:
    """The state after a step, and its metrics, where the KL before it is at most `limit` (None: whatever it is); else
    the state before it, bit by bit, and an update of norm 0: whoever reads the KL knows that the fit is over."""
    if limit is None:
        return after, metrics
    left = metrics[KL] > limit
    state = jax.tree.map(lambda old, new: jnp.where(left, old, new), before, after)
    return state, {**metrics, "update_norm": jnp.where(left, 0.0, metrics["update_norm"])}
